-- The texts that name a receipt are composed (NFC) and trimmed since this version; receipts recorded before are brought
-- to that form, or a till that sends one again would earn again. Where two become the same, the first is found.
WITH written AS (
    SELECT store, till, business_date, receipt, kind, member_id, version
    FROM receipt
    WHERE store || till || receipt !~ '^[!-~]*$'
), composed AS (
    SELECT
        written.*,
        btrim(normalize(store, NFC), blank) AS new_store,
        btrim(normalize(till, NFC), blank) AS new_till,
        btrim(normalize(receipt, NFC), blank) AS new_receipt
    FROM written
    CROSS JOIN (
        VALUES (
            U&' \00a0\1680\2000\2001\2002\2003\2004\2005\2006\2007\2008\2009\200a\202f\205f\3000'
        )
    ) AS trimmed (blank)
), ranked AS (
    SELECT
        composed.*,
        row_number() OVER (
            PARTITION BY new_store, new_till, business_date, new_receipt, kind
            ORDER BY (store, till, receipt) <> (new_store, new_till, new_receipt), member_id, version
        ) AS place
    FROM composed
)
UPDATE receipt r
SET store = ranked.new_store, till = ranked.new_till, receipt = ranked.new_receipt
FROM ranked
WHERE
    (r.store, r.till, r.business_date, r.receipt, r.kind)
    = (ranked.store, ranked.till, ranked.business_date, ranked.receipt, ranked.kind)
    AND (ranked.store, ranked.till, ranked.receipt) <> (ranked.new_store, ranked.new_till, ranked.new_receipt)
    AND ranked.place = 1
    AND '' NOT IN (ranked.new_store, ranked.new_till, ranked.new_receipt)
    AND NOT EXISTS (
        SELECT FROM receipt o
        WHERE
            (o.store, o.till, o.business_date, o.receipt, o.kind)
            = (ranked.new_store, ranked.new_till, ranked.business_date, ranked.new_receipt, ranked.kind)
    );
