"""Names that MicroPython itself uses: an attribute of that name may be one of its objects', and is never renamed.

All of its C sources (`grep -rhoE "MP_QSTR_[a-z]\\w*" py extmod shared ports/{rp2,esp32,zephyr,unix}`) and of the
modules in Python that come with it, version 1.25.
"""

_WORDS = """
a0 a1 a10 a11 a12 a13 a14 a15 a2 a2b_base64 a3 a4 a5 a6 a7 a8 a9 abs abs_tol accept aclose acos acosh acquire active
add add_peer add_program addi addr addr4 addr6 addr_mode addressof addrsize adv_data aes ahb_err align all
alloc_emergency_exception_buf allocate_lock alt and_ andi antenna any append appendleft arg args argv array
as_bytearray asin asinh asm_pio asm_pio_encode asm_rv32 asm_thumb asm_xtensa asr atan atan2 atanh atexit atten auipc
auth authmode autoconf6 awrite awritestr b2a_base64 ball bany baudrate bbc bbs beq beqz bge bgeu big bin binascii bind
bits bitstream bitstream_channel bl blit block block_size blt bltu bluetooth bnall bne bnez bnone board bond bool
bootloader bootsel_button bound_method bssid bswap btree buf buffer buffering builtin_driver builtins busy bx
bytearray bytearray_at bytecode byteorder bytes bytes_at c_add c_addi c_addi4spn c_and c_andi c_beqz c_bnez c_ebreak
c_j c_jal c_jalr c_jr c_li c_lui c_lw c_lwsp c_mv c_nop c_or c_slli c_srai c_srli c_sub c_sw c_swsp c_xor cachesize
calcsize call call_exception_handler callable callback callx0 cancel cd ceil center cfun chain_to channel chdir
check_bootsec choice chr cipher classmethod clear clock clock_div close closure cls clz cmath cmd cmp co_code
co_consts co_filename co_firstlineno co_lnotab co_name co_names code collect collections commit compile complex config
connect connectable const control_xfer_cb copy copysign coro cos cosh count country cpsid cpsie cpu crc32 crc8
create_task cryptolib cs csrrc csrrci csrrs csrrsi csrrw csrrwi ctrl cts cur_task current_task current_tid data
datetime dec decode decrypt deepsleep default default_exception_handler deflate degrees deinit del_peer delattr delay
delay_max deleter deque desc_cfg desc_dev desc_strs dest dhcp dhcp4 dhcp6 dhcp_hostname dht_readinto dict dict_view
difference difference_update digest dir disable disable_irq discard disconnect div divmod divu dns
do_handshake_on_connect doc done drain drive dump dumps dupterm dupterm_notify duty duty_ns duty_u16 ebreak ecall
ecdsa_sign_callback ellipse enable enable_irq encode encoding encrypt end endswith entry enumerate env ep_max
erase_key erf erfc errno errorcode esp esp32 essid eval exc exc_info exception exec execfile executable exit exp expm1
extend extra_coverage extra_cpp_coverage f_back f_code f_globals f_lasti f_lineno fabs factorial feed ffi fficallback
ffifunc ffimod ffivar file fileno fill fill_rect filter find firstbit flags flash_erase flash_read flash_size
flash_user_start flash_write float floor flow flush fmod format frame framebuf freq frexp from_bytes fromhex fromkeys
frozenset fs_corrupted func function fw_version gamma gap_advertise gap_connect gap_disconnect gap_name gap_pair
gap_passkey gap_scan gather gattc_discover_characteristics gattc_discover_descriptors gattc_discover_services
gattc_exchange_mtu gattc_read gattc_write gatts_indicate gatts_notify gatts_read gatts_register_services
gatts_set_buffer gatts_write gc generator get get_blob get_ciphers get_event_loop get_exception_handler get_extra_info
get_float get_i32 get_ident get_int get_micros get_millis get_next_update get_peer get_peers getaddrinfo getattr
getcwd getenv getpeercert getrandbits getsizeof getter getvalue globals gmtime gp gpio_base gpio_deep_sleep_hold
gpio_matrix_in gpio_matrix_out group groups gw4 handler hard has_autoconf6 has_dhcp4 hasattr hash hashlib hci_cmd heap
heap_lock heap_locked heap_unlock heapify heappop heappush heapq help hex hexlify hidden high high_pri hline hold
hostname ibuf id idf_heap_info idle idle_level ifconfig ifidx ifname ilistdir imag implementation in_ in_base
in_shiftdir inc_read inc_read_rev inc_write inc_write_rev index indices inet_ntop inet_pton inf info init input insert
int integer intern intersection intersection_update interval_us invert io ioctl ipconfig ipoll irecv irq irq_quiet
is_preempt_thread is_ready is_set isalpha isclose isconnected isdigit isdisjoint isenabled isfinite isinf isinstance
islower isnan isspace issubclass issubset issuperset isupper items itemsize iter iterable iterator itf_max jal jalr
jclass jmethod jmp jmp_pin jni jobject join json jx kbd_intr keepends key keys l16si l16ui l2cap_connect
l2cap_disconnect l2cap_listen l2cap_recvinto l2cap_send l32i l8ui la label labels lb lbu ldexp ldr ldrb ldrex ldrh
le_secure len level lgamma lh lhu li libc_ver lightsleep line list listdir listen little lmk load load_binary
load_cert_chain load_verify_locations loads locals localtime lock locked log log10 log2 lookahead loop low lower lsl
lsr lstrip lui lw lwip mac machine makefile map mark_app_valid_cancel_rollback marshal match math max max_clients
maximum_space_recursion_space_depth_space_exceeded maxsize mck mcu_temperature md5 mdc mdio measure mem mem16 mem32
mem8 mem_alloc mem_current mem_free mem_info mem_peak mem_total memaddr memory memoryview micropython min minkeypage
miso mitm mkdir mkfs mktime mod_peer mode modf modify module modules monitor mosi mount mov mov_n movi movt movw movwt
mrs mtime mtu mul mulh mulhsu mulhu mull mv name namedtuple nan native network new_event_loop new_service_callback
newline next nina nodename nop num_instr num_sideset object oct off offset on onewire opaqueval opcode open
open_connection open_itf_cb openamp opt_level or_ ord ori os osdebug out out_base out_buf out_shiftdir pack pack_ctrl
pack_into pagesize parity partition pass_ passive password path peek peer_count peers_table pend_throw period ph_child
ph_child_last ph_delete ph_key ph_meld ph_next ph_pairing ph_rightmost_parent phase phy_addr phy_mode phy_type pi pin
pins pixel pkt_get_info platform pm polar polarity poll poller poly pop popitem popleft pow power prefer preview print
print_exception print_pcbs prog progsize property protocol ps1 ps2 ptr ptr16 ptr32 ptr8 pull pull_thresh push
push_thresh put putenv pystack_space_exhausted pystack_use python_compiler qstr_info queue_read queue_write ra radians
randint random randrange range rate raw_temperature rb rbit re read read1 read_err read_u16 read_uv readbit readblocks
readbyte readchar readexactly readfrom readfrom_into readfrom_mem readfrom_mem_into readinto readline readlines
readonly readsize real reconnects rect recv recv_into recvfrom recvinto ref_clk ref_clk_mode register registers regs
rel_tol release rem remote_wakeup remove remove_program remu rename replace repr reset reset_cause reset_cb resp_data
restart ret_n return reverse reversed rfind rindex ring_sel ring_size rmdir rom_ioctl round route rp2 rpartition
rsplit rssi rstrip rts run run_forever run_until_complete rx rx_fifo rxbuf s0 s1 s10 s11 s16i s2 s3 s32i s4 s5 s6 s7
s8 s8i s9 sb scan schedule sck scl scroll sd sda sdiv search security seed seek select self send send_ethernet sendall
sendbreak sendto sep separators seq server_hostname server_side set set_base set_blob set_boot set_buf set_ciphers
set_error set_exception_handler set_i32 set_pmk set_wakeup_period setattr setblocking setdefault setraw setsockopt
setter settimeout settrace setup sh sha1 sha256 shell_exec shift shutdown side sideset_base sideset_count sideset_opt
sin single sinh size sizeof sleep sleep_ms sleep_us slice slip sll slli slot slt slti sltiu sltu sniff_en sockaddr
socket soft_reset sort sorted source_freq sp span spi split splitlines sqrt sra srai src srl srli ssid stack_size
stack_use stall start start_new_thread start_pass start_server startswith stat state state_machine staticmethod
stations stats status statvfs stderr stdin stdout step stest_fileio stest_textio2 stop str str_max strb stream
stream_awrite strex strh strip struct sub submit_xfer subtype sum super sw symmetric_difference
symmetric_difference_update sync sys sysname system t0 t1 t2 t3 t4 t5 t6 tan tanh task tau tcgetattr tcsetattr tell
termios text thread_analyze threshold throw tick_hz ticks ticks_add ticks_cpu ticks_diff ticks_ms ticks_us time
time_ns time_pulse_us timeout timeout_char timeout_ms tls to_bytes toggle tp trace tracebacklimit treq_sel trigger
trunc tuple tx tx_carrier tx_fifo txbuf txdone txpower type uctypes udiv uint umount uname unhexlify uniform union
unique_id unlink unpack unpack_ctrl unpack_from unregister unsetenv update upper urandom user username usys
utf_hyphen_8 value values var vcmp vcvt_f32_s32 vcvt_s32_f32 verify_callback verify_mode version version_info vfs
viper vldr vline vmov vmrs vneg vsqrt vstr wait wait_closed wait_done wait_for wait_for_ms wait_io_event waiting wake
wake_on_ext0 wake_on_ext1 wake_on_touch wake_on_ulp wake_reason wb websocket wfi width word wp wrap wrap_socket
wrap_target wrap_used write write1 write_err write_pulses write_readinto writebit writeblocks writebyte writechar
writeto writeto_mem writevto ws x0 x1 x10 x11 x12 x13 x14 x15 x16 x17 x18 x19 x2 x20 x21 x22 x23 x24 x25 x26 x27 x28
x29 x3 x30 x31 x4 x5 x6 x7 x8 x9 xfer_cb xor xori xxx xxxx zephyr zero zip zsensor
"""
RESERVED = frozenset(_WORDS.split())
