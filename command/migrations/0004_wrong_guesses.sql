-- Wrong guesses: at the code of a redemption (version names it), at receivers of a member's transfers (version 0). For an
-- hour they count against the next one.
CREATE TABLE wrong_guess (
    member_id bigint NOT NULL,
    version bigint NOT NULL,
    guessed_at timestamptz NOT NULL
);
CREATE INDEX wrong_guess_by_what ON wrong_guess (member_id, version, guessed_at);
