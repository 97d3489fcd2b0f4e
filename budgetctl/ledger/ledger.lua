-- KEYS: what is known of the reservation; then, for each account, a hash of what was spent per period, with
-- the sum of what is held in the field "held", and a sorted set of the holds, "units:id" by their expiry.
-- ARGV: the operation, the id, the time in ms (empty: the server's own), and the rest as JSON.
-- Integers are written with %.0f: joining strings with .. would round those above 1e14.

local operation, id, now = ARGV[1], ARGV[2], tonumber(ARGV[3])
local given = cjson.decode(ARGV[4])
local accounts = given.accounts

if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local function whole(number)
  return string.format('%.0f', number)
end

-- Months since March of the year 0, from days (Howard Hinnant, "chrono-compatible low-level date algorithms").
local function month()
  local days = math.floor(now / 86400000) + 719468
  local era = math.floor(days / 146097)
  local day = days - era * 146097
  local year = math.floor(
    (day - math.floor(day / 1460) + math.floor(day / 36524) - math.floor(day / 146096)) / 365)
  local of_year = day - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  return (era * 400 + year) * 12 + math.floor((5 * of_year + 2) / 153)
end

local function period(account)
  if account.period_ms == 0 then
    return month()
  end
  return math.floor(now / account.period_ms)
end

local function keys(i)
  return KEYS[2 * i], KEYS[2 * i + 1]
end

local function keep(key, ms)
  if redis.call('PTTL', key) < ms then
    redis.call('PEXPIRE', key, whole(ms))
  end
end

local function expire(i)
  local spent, holds = keys(i)
  for _, hold in ipairs(redis.call('ZRANGEBYSCORE', holds, '-inf', whole(now))) do
    redis.call('HINCRBY', spent, 'held', whole(0 - string.match(hold, '^%d+')))
    redis.call('ZREM', holds, hold)
  end
  if redis.call('EXISTS', holds) == 0 then -- the server may have forgotten them all at once
    redis.call('HDEL', spent, 'held')
  end
end

local function state(i)
  expire(i)
  local key, account = keys(i), accounts[i]
  local current, spent, held = period(account), 0, 0
  local fields = redis.call('HGETALL', key)
  for f = 1, #fields, 2 do
    local of, units = tonumber(fields[f]), tonumber(fields[f + 1])
    if not of then
      held = units
    elseif of < current - 2 * account.behind - 1 then
      redis.call('HDEL', key, fields[f])
    elseif of >= current - account.behind then
      spent = spent + units
    end
  end
  return spent, held
end

local function reserve()
  local known = redis.call('GET', KEYS[1])
  if known then
    return {tonumber(known) or 0}
  end
  local spent, held, refusal = {}, {}, nil
  for i = 1, #accounts do
    spent[i], held[i] = state(i)
  end
  for rung, asked in ipairs(given.rungs) do
    local short = nil
    for i, units in ipairs(asked) do
      if units > 0 and spent[i] + held[i] + units > accounts[i].limit then
        local refused = {-1, i - 1, spent[i], held[i], units}
        if accounts[i].strict and (not short or not short.strict) then
          short = {strict = true, reply = refused}
        end
        short = short or {reply = refused}
      end
    end
    if not short then
      for i, units in ipairs(asked) do
        if units >= 0 then
          local sums, holds = keys(i)
          redis.call('HINCRBY', sums, 'held', whole(units))
          redis.call('ZADD', holds, whole(now + given.hold_ms), whole(units) .. ':' .. id)
          local ms = math.max(accounts[i].kept_ms, given.hold_ms)
          keep(sums, ms)
          keep(holds, ms)
        end
      end
      redis.call('SET', KEYS[1], rung - 1, 'PX', whole(given.hold_ms))
      return {rung - 1}
    end
    refusal = short.reply
    if short.strict then
      break
    end
  end
  return refusal
end

local function settle()
  if redis.call('GET', KEYS[1]) == 'done' then
    return {2}
  end
  redis.call('SET', KEYS[1], 'done', 'PX', whole(given.remembered_ms))
  local late = 0
  for i, units in ipairs(given.held) do
    if units >= 0 then
      expire(i)
      local sums, holds = keys(i)
      if redis.call('ZREM', holds, whole(units) .. ':' .. id) == 1 then
        redis.call('HINCRBY', sums, 'held', whole(0 - units))
      else
        late = 1
      end
      redis.call('HINCRBY', sums, whole(period(accounts[i])), whole(given.spent[i]))
      keep(sums, accounts[i].kept_ms)
      keep(holds, accounts[i].kept_ms)
    end
  end
  return {late}
end

local function read()
  local reply = {}
  for i = 1, #accounts do
    local spent, held = state(i)
    reply[2 * i - 1], reply[2 * i] = spent, held
  end
  return reply
end

return ({reserve = reserve, settle = settle, read = read})[operation]()
