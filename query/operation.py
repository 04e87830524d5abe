"""The calls of a query node: routes and OpenAPI document come from this list."""

from typing import Any, Final

from query import shape
from query.catalogue import NEAR
from query.evaluation import EvaluationBody
from query.events import TicketBody
from query.system_shape import System
from service.admission import Rank
from service.openapi import EVERYONE, QUERY_HEADERS, About, Operation, Parameter
from service.shape import MEMBER_EXAMPLE, Account

ABOUT: Final = About(
    "Loyalty queries",
    "Reads of members, their points and history, and of the program.\n\n"
    "**Read your own writes:** a command answers with `Consistency-Token`; send it along with a query and the answer "
    "includes that command, or is 503 `not_yet_visible` (send it again after `Retry-After`). 409 `state_lost` says "
    "that the command was lost to a disaster: forget the token, and ask again without it.\n\n"
    "**Poll cheaply:** keep the `ETag` and send it in `If-None-Match`: 304 says that nothing changed. Or listen to "
    "`/v1/members/{member_id}/events`.\n\n"
    "**To try:** commands are described at `/docs` of a command node; the front door's `/docs` has both. The examples "
    "here ask about the member that the commands' first example enrols.\n\n"
    "Any node takes any member's request and hands it to the member's home region when that is another one.",
)

_MEMBER: Final = Parameter(
    "member_id", "path", "14 characters; the last is a check symbol.", {"type": "string", "examples": [MEMBER_EXAMPLE]}
)
_TOKEN: Final = Parameter(
    "Consistency-Token",
    "header",
    f"From a command's answer (like `v1.{MEMBER_EXAMPLE}.7`): see at least that. A token of another member is "
    "`malformed`.",
    {"type": "string", "pattern": r"^v1\.[0-9A-Za-z]{14}\.[0-9]{1,19}$"},
)
_IF_NONE_MATCH: Final = Parameter(
    "If-None-Match", "header", 'The ETag kept, like `W/"7"`; 304 when it still holds.', {"type": "string"}
)
_PAGE_SIZE: Final = Parameter(
    "page_size",
    "query",
    "Items per page; more than 200 is taken as 200.",
    {"type": "integer", "minimum": 1, "default": 50},
)
_PAGE_TOKEN: Final = Parameter(
    "page_token",
    "query",
    "`next_page_token` of the page before, with the same other parameters.",
    {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"},
)
_OF_MEMBER: Final = (_MEMBER, _TOKEN, _IF_NONE_MATCH)
_READ: Final = ("shard_unavailable", "not_yet_visible", "state_lost")
_MEMBER_READ: Final = ("member_not_found", *_READ)


def _identifier(name: str, description: str, **schema: Any) -> Parameter:
    return Parameter(name, "query", f"{description} Send exactly one of the three.", {"type": "string", **schema})


OPERATIONS: Final = (
    Operation(
        "GET",
        "/v1/members/{member_id}",
        "get_member",
        "A member's profile and account",
        shape.Member,
        problems=_MEMBER_READ,
        parameters=_OF_MEMBER,
        answer_headers=QUERY_HEADERS,
    ),
    Operation(
        "GET",
        "/v1/members/{member_id}/account",
        "get_account",
        "A member's points and tier",
        Account,
        problems=_MEMBER_READ,
        parameters=_OF_MEMBER,
        answer_headers=QUERY_HEADERS,
    ),
    Operation(
        "GET",
        "/v1/members/{member_id}/activity",
        "list_activity",
        "What happened to a member's points, newest first",
        shape.Activity,
        problems=_MEMBER_READ,
        parameters=(*_OF_MEMBER, _PAGE_SIZE, _PAGE_TOKEN),
        answer_headers=QUERY_HEADERS,
        rank=Rank.REPORT,
    ),
    Operation(
        "GET",
        "/v1/members/{member_id}/rewards",
        "list_member_rewards",
        "What a member can redeem, and what is missing",
        shape.MemberRewardList,
        problems=_MEMBER_READ,
        parameters=_OF_MEMBER,
        answer_headers=QUERY_HEADERS,
    ),
    Operation(
        "GET",
        "/v1/members/{member_id}/events",
        "stream_account",
        "The account whenever it changes",
        None,
        description="Server-sent events `account`: `id` is the version, `data` the account. The first comes at once. "
        "After a cut, `Last-Event-ID` (an EventSource sends it by itself) resumes: the account comes again only if "
        "its version grew meanwhile. Versions may be skipped, never repeated. `Loyalty-Source` is that of the "
        "state a stream begins with. It ends with its credential, and a member has only so many on a node (429). An "
        "EventSource cannot send a credential: it shows a `ticket`.",
        problems=(*_MEMBER_READ, "rate_limited"),
        parameters=(
            _MEMBER,
            _TOKEN,
            Parameter(
                "Last-Event-ID",
                "header",
                "The last version seen.",
                {"type": "string", "pattern": "^[0-9]{1,19}$"},
            ),
            Parameter("ticket", "query", "A ticket instead of a credential; it opens one stream.", {"type": "string"}),
        ),
        answer_headers=("Loyalty-Source", "Cache-Control"),
        answer_type="text/event-stream",
        takes_ticket=True,
    ),
    Operation(
        "POST",
        "/v1/stream-tickets",
        "issue_stream_ticket",
        "A ticket that opens one event stream",
        shape.StreamTicket,
        description="For browsers, whose EventSource cannot send a header. The ticket opens one stream of the caller's "
        "own member within 30 seconds, as `/v1/members/{member_id}/events?ticket=...`; the stream lasts as long as the "
        "token it was asked for with. A stream that was cut needs a new ticket. No `Idempotency-Key`.",
        roles=("member",),
        request_model=TicketBody,
        problems=("too_large", "unsupported_media_type", "shard_unavailable"),
    ),
    Operation(
        "GET",
        "/v1/lookup",
        "look_up_member",
        "The member behind a card, phone number or e-mail address",
        shape.Found,
        roles=("pos", "service"),
        problems=_MEMBER_READ,
        parameters=(
            _identifier("card", "A card number."),
            _identifier("phone", "E.164; a blank is taken for an unescaped plus sign.", examples=["+4930123456"]),
            _identifier("email", "An e-mail address, in any case and composition; a blank is a plus sign too."),
            _TOKEN,
            _IF_NONE_MATCH,
        ),
        answer_headers=QUERY_HEADERS,
        tag="lookup",
    ),
    Operation(
        "GET",
        "/v1/purchases/{purchase_id}",
        "get_purchase",
        "A purchase, what it earned and why, and its returns",
        shape.Purchase,
        problems=("purchase_not_found", *_READ),
        parameters=(
            Parameter(
                "purchase_id",
                "path",
                "As the command answered it.",
                {"type": "string", "examples": [f"pur_{MEMBER_EXAMPLE}-7"]},
            ),
            _TOKEN,
            _IF_NONE_MATCH,
        ),
        answer_headers=QUERY_HEADERS,
        tag="purchases",
    ),
    Operation(
        "POST",
        "/v1/evaluations",
        "evaluate_purchase",
        "What a basket would bring, and why",
        shape.Evaluation,
        description="Decides as a purchase would, by the program in force at `at`, and changes nothing: the basket as "
        "if bought at `at` (any instant, past or future; absent: now) by the member as they are, with time let pass. "
        "`occurred_at` and the receipt do not matter. A refusal is the one the purchase would get.",
        request_model=EvaluationBody,
        problems=(
            "forbidden", "member_not_found", "member_closed", "hold_not_found", "hold_closed", "too_large",
            "unsupported_media_type", "unknown_store", "unknown_coupon", "limit_exceeded", "insufficient_points",
            *_READ,
        ),
        parameters=(_TOKEN,),
        answer_headers=("Loyalty-Source", "Cache-Control"),
        tag="purchases",
    ),
    Operation(
        "GET",
        "/v1/commands/{idempotency_key}",
        "get_command",
        "What became of a command",
        shape.CommandState,
        description="For a till that got no answer. `done` comes with the first answer. `unknown` means that no answer "
        "is visible (yet): send the command again with the same key, which is always safe. A till sees only what its "
        "own credential sent, a member what their own token sent.",
        problems=("shard_unavailable",),
        parameters=(
            Parameter(
                "idempotency_key",
                "path",
                "The command's Idempotency-Key, percent-encoded. `.` and `..` in quotes (`%22.%22`): bare they are "
                "taken for folders, and out of the path, by clients and proxies.",
                {"type": "string", "examples": ["berlin-mitte-7-record_purchase"]},
            ),
        ),
        answer_headers=("Loyalty-Source", "Cache-Control"),
        tag="commands",
    ),
    Operation(
        "GET",
        "/v1/rewards",
        "list_rewards",
        "What points can be redeemed for",
        shape.RewardList,
        problems=("shard_unavailable",),
        parameters=(_IF_NONE_MATCH,),
        answer_headers=QUERY_HEADERS,
        tag="program",
        rank=Rank.REPORT,
    ),
    Operation(
        "GET",
        "/v1/tiers",
        "list_tiers",
        "The tiers and what reaching them takes",
        shape.TierList,
        problems=("shard_unavailable",),
        parameters=(_IF_NONE_MATCH,),
        answer_headers=QUERY_HEADERS,
        tag="program",
        rank=Rank.REPORT,
    ),
    Operation(
        "GET",
        "/v1/stores",
        "list_stores",
        "The stores, on demand nearest first",
        shape.StoreList,
        roles=EVERYONE,
        problems=("shard_unavailable",),
        parameters=(
            Parameter(
                "near",
                "query",
                "Latitude and longitude in degrees.",
                {"type": "string", "pattern": NEAR, "examples": ["52.52,13.405"]},
            ),
            Parameter("region", "query", "Only stores of this region.", {"type": "string", "examples": ["eu"]}),
            _PAGE_SIZE,
            _PAGE_TOKEN,
            _IF_NONE_MATCH,
        ),
        answer_headers=QUERY_HEADERS,
        tag="program",
        rank=Rank.REPORT,
    ),
    Operation(
        "GET",
        "/v1/system",
        "get_system",
        "Regions, shards and servers, as they say they are",
        System,
        description="Each region with its nodes, Postgres servers (role, zone, lag, slots), projectors, clocks and "
        "versions. What does not answer is told with the reason, a region as it was heard last with its age; nothing "
        "makes the rest unknown. A look counts for two seconds, so asking often costs nothing.",
        roles=("admin",),
        problems=("forbidden",),
        parameters=(Parameter("region", "query", "Only this region.", {"type": "string", "examples": ["eu"]}),),
        answer_headers=("Loyalty-Source", "Cache-Control"),
        tag="system",
    ),
)  # fmt: skip
