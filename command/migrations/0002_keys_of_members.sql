-- Keys that members' tokens sent move to the name space of that member: a till's command never meets them.
UPDATE idempotency
SET key = 'member:' || upper(substr(credential, 8)) || ' ' || key
WHERE credential LIKE 'member:%' AND key NOT LIKE '% %';
