-- The shard's schema: what the migrations in migrations/ lead to (a test proves it).
-- Every row that belongs to a member carries member_id, so that slots can move between shards.

-- The rules, as applied; old versions stay because returns and explanations need them.
CREATE TABLE program (
    version integer PRIMARY KEY,
    effective_at timestamptz NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    source text NOT NULL,
    -- When it first decided something here: in force from then on, whatever the clock of a server says that takes over.
    begun_at timestamptz
);

-- A person. profile holds all personal data, so that erasing it is one update.
CREATE TABLE member (
    member_id bigint PRIMARY KEY,
    version bigint NOT NULL,
    profile json NOT NULL,
    enrolled_at timestamptz NOT NULL
);

-- Cards, phones and e-mail addresses by which a till finds a member of this shard.
CREATE TABLE identifier (
    kind text NOT NULL,
    value text NOT NULL,
    member_id bigint NOT NULL,
    version bigint NOT NULL,
    PRIMARY KEY (kind, value)
);
CREATE INDEX identifier_by_member ON identifier (member_id);

-- Who has an identifier that does not route by itself (phone, e-mail, a card of foreign form): one row in the whole
-- program, on the shard its hash names. Leased before the member is created, held (leased_until null) afterwards.
CREATE TABLE claim (
    kind text NOT NULL,
    value text NOT NULL,
    member_id bigint NOT NULL,
    leased_until timestamptz,
    slot integer,
    -- The command that leased it, as long as no other one of the member has leased it too: that one may give it up.
    attempt bigint,
    PRIMARY KEY (kind, value)
);
CREATE INDEX claim_by_slot ON claim (slot);

-- Which claim slots this shard keeps, once any has moved (command/claim_move.py); no row: what the topology says. What is
-- fenced, or gone, is neither read nor written here: `receiver` has it, or is about to.
CREATE TABLE claim_slot (
    slot integer PRIMARY KEY,
    state text NOT NULL CONSTRAINT claim_slot_state CHECK (state IN ('here', 'fenced', 'gone')),
    receiver text
);

-- Phones, e-mails and cards of those who left, as keyed hashes, until they may have all bonuses again. On the shard the
-- hash names; of a card of our own form on the shard the card names, that of the member_id whose it was.
CREATE TABLE former_identifier (
    hash uuid PRIMARY KEY,
    member_id bigint,
    forget_at timestamptz NOT NULL,
    slot integer
);
CREATE INDEX former_identifier_by_age ON former_identifier (forget_at);
CREATE INDEX former_identifier_by_slot ON former_identifier (slot);

-- The whole small state of a member. The buckets are columns so that the database backs up the rules:
-- none is negative, and together they are what the program issued (double entry).
CREATE TABLE account (
    member_id bigint PRIMARY KEY,
    version bigint NOT NULL,
    status text NOT NULL DEFAULT 'open',
    available bigint NOT NULL,
    pending bigint NOT NULL,
    held bigint NOT NULL,
    spent bigint NOT NULL,
    expired bigint NOT NULL,
    debt bigint NOT NULL,
    issued bigint NOT NULL,
    state json NOT NULL,
    due_at timestamptz,
    CONSTRAINT account_no_negative_bucket CHECK (
        available >= 0 AND pending >= 0 AND held >= 0 AND spent >= 0 AND expired >= 0 AND debt >= 0
    ),
    CONSTRAINT account_sums_to_zero CHECK (issued = available + pending + held + spent + expired - debt)
) WITH (fillfactor = 70);
-- The settler's work list: accounts that time alone changes next.
CREATE INDEX account_due ON account (due_at) WHERE due_at IS NOT NULL;

-- Append-only record of accepted commands. account_after is the account as the command's answer showed it, in a short form
-- (rules/stored.py), as are postings: views are rendered from this row alone.
CREATE TABLE journal (
    member_id bigint NOT NULL,
    version bigint NOT NULL,
    kind text NOT NULL,
    program_version integer NOT NULL,
    occurred_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    store text,
    points bigint NOT NULL,
    postings json NOT NULL,
    detail json NOT NULL,
    account_after json NOT NULL,
    PRIMARY KEY (member_id, version)
);

-- A purchase with what each line earned and what came back; version is the entry that made it, changed_version the last that touched it.
CREATE TABLE purchase (
    member_id bigint NOT NULL,
    version bigint NOT NULL,
    changed_version bigint NOT NULL,
    store text NOT NULL,
    till text NOT NULL,
    receipt text NOT NULL,
    business_date date NOT NULL,
    occurred_at timestamptz NOT NULL,
    document json NOT NULL,
    PRIMARY KEY (member_id, version)
) WITH (fillfactor = 80);

-- The permanent natural key of what tills send: a retry with a new Idempotency-Key, days later, meets it. subject is the
-- purchase that a return is of (member id and version); empty for all else, and for returns of the first release. A
-- purchase that made room for another's of the same name is named there itself (command/receipt_move.sql).
CREATE TABLE receipt (
    store text NOT NULL,
    till text NOT NULL,
    business_date date NOT NULL,
    receipt text NOT NULL,
    kind text NOT NULL,
    member_id bigint NOT NULL,
    version bigint NOT NULL,
    fingerprint uuid NOT NULL,
    subject text NOT NULL DEFAULT '',
    PRIMARY KEY (store, till, business_date, receipt, kind, subject)
);

-- Receipts whose name is still to be claimed at the shard that keeps the receipts of their store: there as a row of `receipt`
-- as well, of a member who lives elsewhere. Written with the purchase, deleted when the claim is made or settled.
CREATE TABLE unclaimed_receipt (
    member_id bigint NOT NULL,
    version bigint NOT NULL,
    region text NOT NULL,
    store text NOT NULL,
    till text NOT NULL,
    business_date date NOT NULL,
    receipt text NOT NULL,
    fingerprint uuid NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    due_at timestamptz NOT NULL,
    PRIMARY KEY (member_id, version)
);
CREATE INDEX unclaimed_receipt_due ON unclaimed_receipt (due_at);

-- A row here: this shard claims no more receipts, others have theirs (command/receipt_move.py).
CREATE TABLE receipt_fence (
    only_one boolean PRIMARY KEY DEFAULT true CONSTRAINT receipt_fence_one CHECK (only_one),
    fenced_at timestamptz NOT NULL DEFAULT now()
);

-- What an entry still owes to other shards: points to a receiver, thanks to a referrer, identifiers to free. Written
-- with its entry, done by the courier, deleted when done; every step of an errand may be repeated.
CREATE TABLE errand (
    member_id bigint NOT NULL,
    version bigint NOT NULL,
    kind text NOT NULL,
    document json NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    due_at timestamptz NOT NULL,
    PRIMARY KEY (member_id, version)
);
CREATE INDEX errand_due ON errand (due_at);

-- This shard's allotment of each reward with a stock; all allotments and moves under way make up the stock.
CREATE TABLE reward_stock (
    reward text PRIMARY KEY,
    allotted bigint NOT NULL,
    redeemed bigint NOT NULL DEFAULT 0,
    CONSTRAINT reward_stock_never_oversold CHECK (redeemed >= 0 AND redeemed <= allotted)
);
-- Allotment on its way to another shard: taken here, not yet known to be there.
CREATE TABLE stock_move (
    move_id uuid PRIMARY KEY,
    reward text NOT NULL,
    quantity bigint NOT NULL CHECK (quantity > 0),
    receiver text NOT NULL,
    moved_at timestamptz NOT NULL DEFAULT now()
);
-- Moves that have arrived here, so that one arrives once.
CREATE TABLE stock_arrival (
    move_id uuid PRIMARY KEY,
    arrived_at timestamptz NOT NULL DEFAULT now()
);

-- The incarnations of this shard: a restore begins the next, and the versions of entries carry its number, so that none is
-- ever given twice. Until it is reconciled (`loyalty reconcile`) claims that are not here may have been lost.
CREATE TABLE incarnation (
    number integer PRIMARY KEY,
    began_at timestamptz NOT NULL DEFAULT now(),
    why text NOT NULL,
    reconciled_at timestamptz
);

-- Slots that this shard has given to another one of its region (cluster/shard_growth.py): nobody is enrolled here in them.
-- Enrolments look here under a shared lock of their own, so that none is under way while slots are given (command/slot.sql).
CREATE TABLE given_slot (
    slot integer PRIMARY KEY,
    receiver text NOT NULL,
    given_at timestamptz NOT NULL DEFAULT now()
);

-- First answers by Idempotency-Key; refusals too (version is null then). A replay touches its row so that it waits for the standby.
CREATE TABLE idempotency (
    key text PRIMARY KEY,
    member_id bigint,
    version bigint,
    credential text NOT NULL,
    fingerprint uuid NOT NULL,
    status integer NOT NULL,
    answer json NOT NULL,
    answered_at timestamptz NOT NULL,
    replays integer NOT NULL DEFAULT 0
) WITH (fillfactor = 90);
CREATE INDEX idempotency_by_age ON idempotency USING brin (answered_at);

-- Wrong guesses: at the code of a redemption (version names it), at receivers of a member's transfers (version 0). For an
-- hour they count against the next one.
CREATE TABLE wrong_guess (
    member_id bigint NOT NULL,
    version bigint NOT NULL,
    guessed_at timestamptz NOT NULL
);
CREATE INDEX wrong_guess_by_what ON wrong_guess (member_id, version, guessed_at);
