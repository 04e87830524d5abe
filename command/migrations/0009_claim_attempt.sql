-- Which command leased a claim, as long as no other command of the member has leased it too: that one may give it up.
ALTER TABLE claim ADD COLUMN attempt bigint;
