local tenant, name, fence, lease, most = unpack(ARGV)
if not held(fence) then return 0 end
for place = 6, #ARGV do
  redis.call('XADD', events, 'MAXLEN', '~', most, '*', 'part', ARGV[place])
end
ring()
keep_lease(tenant .. '/' .. name, lease)
return 1
