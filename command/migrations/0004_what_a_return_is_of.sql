-- One refund slip may take back from two purchases: what a return is of becomes part of its natural key. Rows of before
-- keep an empty subject; they are found by it, and told apart by their entries.
ALTER TABLE receipt ADD COLUMN subject text NOT NULL DEFAULT '';
ALTER TABLE receipt DROP CONSTRAINT receipt_pkey;
ALTER TABLE receipt ADD CONSTRAINT receipt_pkey PRIMARY KEY (store, till, business_date, receipt, kind, subject);
