-- Wireshark dissector of the emtag protocol. tshark -X lua_script:emtag.lua, or a copy in the folder of plugins.
--
-- @HEADER@
--
-- What it dissects:
--   MQTT     payloads on emtag/v1/up/<device> and emtag/v1/down/<device>: one sealed frame each
--   USER0    what `emtag decode --write` makes: 0 or 1, device id (4 bytes), frame header, then
--            after 0 the message in clear, after 1 ciphertext and tag of a frame that was not opened
--   USER1    datagrams: device id (4 bytes), sealed frame
--   USER2    frames of the serial link with their zero byte
--   UDP      datagrams, by "Decode As" (emtag_datagram)
-- A sealed frame shows its header; a message in clear shows every field. What is malformed gets the reason and the
-- offset of the protocol's reference as emtag.error.reason and emtag.error.offset, in the layer emtag.error.layer.

local emtag = Proto("emtag", "emtag")
local emtag_datagram = Proto("emtag_datagram", "emtag datagram")
local emtag_stream = Proto("emtag_stream", "emtag stream frame")

local VERSION, HEADER, TAG = @VERSION@, @HEADER_SIZE@, @TAG_SIZE@
local MAXIMUM_FRAME, MAXIMUM_DATAGRAM = @MAXIMUM_FRAME@, @MAXIMUM_DATAGRAM@
local TIME_EPOCH_UNIX_S = @TIME_EPOCH_UNIX_S@

local DIRECTIONS = {[0] = "up", [1] = "down"}
local KINDS = {[0] = "record", [1] = "link message"}

local f = {
  opened = ProtoField.bool("emtag.opened", "Opened"),
  device_id = ProtoField.uint32("emtag.device_id", "Device", base.HEX),
  control = ProtoField.uint8("emtag.frame.control", "Control", base.HEX),
  version = ProtoField.uint8("emtag.frame.version", "Version", base.DEC, nil, 0xE0),
  direction = ProtoField.uint8("emtag.frame.direction", "Direction", base.DEC, DIRECTIONS, 0x10),
  kind = ProtoField.uint8("emtag.frame.kind", "Kind", base.DEC, KINDS, 0x08),
  alarm = ProtoField.uint8("emtag.frame.alarm", "Alarm lane", base.DEC, nil, 0x04),
  key_slot = ProtoField.uint8("emtag.frame.key_slot", "Key slot", base.DEC, nil, 0x03),
  epoch = ProtoField.uint16("emtag.frame.epoch", "Boot epoch"),
  sequence = ProtoField.uint24("emtag.frame.sequence", "Sequence"),
  counter = ProtoField.uint64("emtag.frame.counter", "Counter"),
  sealed = ProtoField.bytes("emtag.frame.sealed", "Sealed message"),
  tag = ProtoField.bytes("emtag.frame.tag", "Tag"),
  crc = ProtoField.uint16("emtag.stream.crc", "CRC", base.HEX),
  message_type = ProtoField.uint8("emtag.message_type", "Message", base.HEX, {
@MESSAGE_NAMES@
  }),
  raw = ProtoField.bytes("emtag.raw", "Message of an unknown type"),
  error_reason = ProtoField.string("emtag.error.reason", "Reason"),
  error_offset = ProtoField.uint32("emtag.error.offset", "Offset"),
  error_layer = ProtoField.string("emtag.error.layer", "Layer"),
}
local malformed = ProtoExpert.new("emtag.malformed", "Malformed", expert.group.MALFORMED, expert.severity.ERROR)
emtag.experts = {malformed}

-- Enumerations: value to name; masks: name and bit.
@ENUMERATIONS@

-- A field: name, size, ProtoField, and of these what it has: lowest and highest if narrower than the type, special
-- values with their meaning, unit, `time` (seconds of the wire), `flags` of a mask, `signed`, `bytes`.
-- A message: name, `down` and `link` (what carries it), size with its type byte and the count byte of what follows, fields, and its end if that is of
-- variable size: `rest` {least, most}, `prefixed` {most}, `list` {most, size of an item, fields of an item}.
@FIELDS@

local messages = {
@MESSAGES@
}

local all = {}
for _, field in pairs(f) do all[#all + 1] = field end
for _, field in ipairs(message_fields) do all[#all + 1] = field end
emtag.fields = all

local function fault(tree, layer, reason, offset)
  local item = tree:add(f.error_reason, reason)
  item:set_generated()
  tree:add(f.error_offset, offset):set_generated()
  tree:add(f.error_layer, layer):set_generated()
  item:add_proto_expert_info(malformed, layer .. ": " .. reason .. " at byte " .. offset)
end

local function number(range, field)
  if field.signed then return range:le_int() end
  return range:le_uint()
end

-- Adds a field; its value if it is refused.
local function add_field(tree, range, field)
  local item = tree:add_le(field.field, range)
  if field.bytes then return nil end
  local value = number(range, field)
  local meaning = field.special and field.special[value]
  if field.unit then item:append_text(" " .. field.unit) end
  if meaning then
    item:append_text(" (" .. meaning .. ")")
  elseif field.time then
    item:append_text(os.date("! (%Y-%m-%dT%H:%M:%SZ)", value + TIME_EPOCH_UNIX_S))
  end
  if field.flags then
    for _, bit in ipairs(field.flags) do item:add_le(bit, range) end
  end
  if not meaning and (field.lowest and value < field.lowest or field.highest and value > field.highest) then
    return value
  end
  return nil
end

-- The end of the structure, or reason and offset of what is wrong with it, in the order of every codec.
local function structure(data, message)
  local size, least, most = data:len(), message.size, message.size
  if message.rest then
    least, most = least + message.rest[1], most + message.rest[2]
  elseif message.prefixed or message.list then
    if size < least then return "short", size end
    local count = data(least - 1, 1):uint()
    if message.prefixed then
      if count > message.prefixed[1] then return "length", least - 1 end
      least = least + count
    else
      if count > message.list[1] then return "count", least - 1 end
      least = least + count * message.list[2]
    end
    most = least
  end
  if size < least then return "short", size end
  if size > most then return "trailing", most end
  return nil
end

-- Adds the fields that are there, and the first fault. `down` and `link` are what the frame's header says of itself.
local function dissect_message(data, tree, down, link)
  local size = data:len()
  if size < 1 then
    fault(tree, "message", "short", 0)
    return "malformed"
  end
  local message_type = data(0, 1):uint()
  local message = messages[message_type]
  local item = tree:add(f.message_type, data(0, 1))
  if not message then
    if size > 1 then tree:add(f.raw, data(1)) end
    return string.format("message 0x%02x", message_type)
  end
  local reason, wrong = structure(data, message)
  local offset = 1
  local function add(target, fields, where)
    for _, field in ipairs(fields) do
      if where + field.size > size then return nil end
      local refused = add_field(target, data(where, field.size), field)
      if refused and not reason then reason, wrong = "range", where end
      where = where + field.size
    end
    return where
  end
  offset = add(tree, message.fields, offset)
  if offset and message.rest and size > offset then
    tree:add(message.rest.field, data(offset, math.min(size - offset, message.rest[2])))
  elseif offset and message.prefixed and size > offset then
    local length = math.min(data(offset, 1):uint(), size - offset - 1)
    tree:add(message.prefixed.field, data(offset + 1, length))
  elseif offset and message.list and size > offset then
    local count = data(offset, 1):uint()
    tree:add(message.list.count, data(offset, 1))
    offset = offset + 1
    for index = 1, math.min(count, message.list[1]) do
      if not offset or offset >= size then break end
      local row = tree:add(emtag, data(offset, math.min(message.list[2], size - offset)), message.list.name .. " " .. index)
      offset = add(row, message.list[3], offset)
    end
  end
  if not reason and (message.down ~= down or message.link ~= link) then reason, wrong = "kind", 0 end
  if reason then fault(item, "message", reason, wrong) end
  return message.name
end

-- Header of a frame; what it is in words, or nothing if it is refused.
local function dissect_header(data, tree, opened)
  local size, overhead = data:len(), opened and HEADER or HEADER + TAG
  if size < 1 then
    fault(tree, "frame", "truncated", 0)
    return nil
  end
  local control = data(0, 1):uint()
  local item = tree:add(f.control, data(0, 1))
  item:add(f.version, data(0, 1))
  if math.floor(control / 32) ~= VERSION then
    fault(tree, "frame", "version", 0)
    return nil
  end
  for _, bit in ipairs({f.direction, f.kind, f.alarm, f.key_slot}) do item:add(bit, data(0, 1)) end
  if size < overhead then
    fault(tree, "frame", "truncated", size)
    return nil
  end
  if not opened and size > MAXIMUM_FRAME then
    fault(tree, "frame", "oversize", MAXIMUM_FRAME)
    return nil
  end
  local down, link = math.floor(control / 16) % 2 == 1, math.floor(control / 8) % 2 == 1
  if down then
    tree:add_le(f.counter, data(1, 5))
    return string.format("down counter %s", data(1, 5):le_uint64()), down, link
  end
  tree:add_le(f.epoch, data(1, 2))
  tree:add_le(link and f.counter or f.sequence, data(3, 3))
  return string.format("up %s %d/%d", link and "link" or "record", data(1, 2):le_uint(), data(3, 3):le_uint()),
    down, link
end

local function dissect_frame(data, tree, opened)
  local told, down, link = dissect_header(data, tree, opened)
  if not told then return "malformed frame" end
  if opened then
    -- A range of no bytes is no range: an empty message is told by itself.
    if data:len() == HEADER then
      fault(tree, "message", "short", 0)
      return told .. " malformed"
    end
    return told .. " " .. dissect_message(data(HEADER):tvb(), tree, down, link)
  end
  local sealed = data:len() - HEADER - TAG
  if sealed > 0 then tree:add(f.sealed, data(HEADER, sealed)) end
  tree:add(f.tag, data(HEADER + sealed, TAG))
  return told .. " sealed"
end

local function tell(pinfo, text)
  pinfo.cols.protocol = "emtag"
  local before = tostring(pinfo.cols.info)
  if string.find(before, "^emtag ") then
    pinfo.cols.info:append("; " .. text)
  else
    pinfo.cols.info = "emtag " .. text
  end
end

local function dissect_datagram(data, tree, opened)
  if data:len() < 4 then
    fault(tree, "datagram", "truncated", data:len())
    return "malformed datagram"
  end
  tree:add_le(f.device_id, data(0, 4))
  local device = string.format("%08x", data(0, 4):le_uint())
  if data:len() == 4 then
    fault(tree, "frame", "truncated", 0)
    return device .. " malformed frame"
  end
  return device .. " " .. dissect_frame(data(4):tvb(), tree, opened)
end

function emtag.dissector(data, pinfo, root)
  local tree = root:add(emtag, data())
  if data:len() < 5 then
    fault(tree, "datagram", "truncated", data:len())
    return
  end
  local opened = data(0, 1):uint() == 0
  tree:add(f.opened, data(0, 1), opened)
  tell(pinfo, dissect_datagram(data(1):tvb(), tree, opened))
end

function emtag_datagram.dissector(data, pinfo, root)
  local tree = root:add(emtag, data())
  tell(pinfo, dissect_datagram(data, tree, false))
  return data:len()
end

-- Lua 5.2 has bit32, LuaJIT and Wireshark itself have bit.
local bits = bit32 or bit

local function crc16(bytes, size)
  local crc = 0xFFFF
  for index = 0, size - 1 do
    crc = bits.bxor(crc, bits.lshift(bytes:get_index(index), 8))
    for _ = 1, 8 do
      local high = bits.band(crc, 0x8000) ~= 0
      crc = bits.band(bits.lshift(crc, 1), 0xFFFF)
      if high then crc = bits.bxor(crc, 0x1021) end
    end
  end
  return crc
end

-- COBS: bytes, or reason and offset.
local function unstuff(data)
  local last = data:len() - 1
  local zero = nil
  for index = 0, last do
    if data(index, 1):uint() == 0 then
      zero = index
      break
    end
  end
  if not zero then return nil, "unterminated", last + 1 end
  if zero < last then return nil, "delimiter", zero end
  local most = MAXIMUM_DATAGRAM + 2
  local limit = most + math.floor((most + 253) / 254)
  if last > limit then return nil, "oversize", limit end
  local out = {}
  local index, code, previous = 0, 0, 0
  while index < last do
    previous, code = code, data(index, 1):uint()
    local following = index + code
    if following > last then return nil, "truncated", index end
    if code == 1 and previous == 255 and following == last then return nil, "excess", index end
    for inside = index + 1, following - 1 do out[#out + 1] = string.format("%02x", data(inside, 1):uint()) end
    if code < 255 and following < last then out[#out + 1] = "00" end
    index = following
  end
  if #out < 3 then return nil, "short", last end
  if #out > most then return nil, "oversize", last end
  local bytes = ByteArray.new(table.concat(out))
  local size = #out - 2
  if crc16(bytes, size) ~= bytes:get_index(size) + 256 * bytes:get_index(size + 1) then
    return nil, "checksum", last
  end
  return bytes
end

function emtag_stream.dissector(data, pinfo, root)
  local tree = root:add(emtag, data())
  local bytes, reason, offset = unstuff(data)
  if not bytes then
    fault(tree, "stream", reason, offset)
    tell(pinfo, "malformed stream frame")
    return
  end
  local whole = bytes:tvb("emtag datagram")
  local size = whole:len() - 2
  tree:add_le(f.crc, whole(size, 2))
  tell(pinfo, dissect_datagram(whole(0, size):tvb(), tree, false))
end

-- The heuristic's caller knows the topic; here it is read back from the tree, the last one being that of this message.
local topic_of = Field.new("mqtt.topic")

local function dissect_mqtt(data, pinfo, root)
  local topics = {topic_of()}
  local topic = #topics > 0 and topics[#topics].value or ""
  local way, device = string.match(topic, "^emtag/v1/(%a+)/(%x%x%x%x%x%x%x%x)$")
  if way ~= "up" and way ~= "down" then return false end
  local tree = root:add(emtag, data())
  tree:add(f.device_id, data(0, 0), tonumber(device, 16)):set_generated()
  tell(pinfo, device .. " " .. dissect_frame(data, tree, false))
  return true
end

emtag:register_heuristic("mqtt.topic", dissect_mqtt)
DissectorTable.get("udp.port"):add_for_decode_as(emtag_datagram)
local links = DissectorTable.get("wtap_encap")
local encapsulations = wtap_encaps or wtap
links:add(encapsulations.USER0, emtag)
links:add(encapsulations.USER1, emtag_datagram)
links:add(encapsulations.USER2, emtag_stream)
