local tenant, name, fence, lease = unpack(ARGV)
if not held(fence) then return 0 end
keep_lease(tenant .. '/' .. name, lease)
return 1
