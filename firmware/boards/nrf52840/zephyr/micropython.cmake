# cryptolib and hashlib for the nRF52840's MicroPython, on the Mbed TLS that MicroPython brings along (lib/mbedtls): the
# Zephyr port has no cryptolib by itself. For USER_C_MODULES.
set(EMTAG_MBEDTLS ${MICROPY_DIR}/lib/mbedtls)

# MicroPython's own switches. They are named twice: for the compiler, and for what collects MicroPython's strings.
set(EMTAG_DEFINITIONS MICROPY_PY_CRYPTOLIB=1 MICROPY_SSL_MBEDTLS=1 MBEDTLS_CONFIG_FILE="emtag_mbedtls.h")
add_compile_definitions(${EMTAG_DEFINITIONS})
list(APPEND MICROPY_CPP_DEF_EXTRA ${EMTAG_DEFINITIONS})

add_library(usermod_emtag INTERFACE)
target_sources(usermod_emtag INTERFACE
    ${EMTAG_MBEDTLS}/library/aes.c
    ${EMTAG_MBEDTLS}/library/constant_time.c
    ${EMTAG_MBEDTLS}/library/platform_util.c
    ${EMTAG_MBEDTLS}/library/sha256.c
)
target_include_directories(usermod_emtag INTERFACE ${CMAKE_CURRENT_LIST_DIR} ${EMTAG_MBEDTLS}/include)
target_link_libraries(usermod INTERFACE usermod_emtag)
