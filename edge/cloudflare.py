"""Cloudflare Load Balancing as Terraform (provider v5): it picks a region, and the door of that region does the rest.

Home by rules on path and header, else by the part of the world where the client is. A rule that is missing costs one
hop and no more, because every region's own door knows the homes as well.
"""

from typing import Final

from edge.decision import LOOKUP, MEMBER_HEADER, Door
from edge.geography import Place
from edge.hcl import quoted
from edge.prefix import card_prefix, id_prefixes, path_prefixes

STANDING: Final = "Only parsed (python-hcl2), never planned or applied: no account and no provider was at hand."
PARTS_OF_THE_WORLD: Final = {
    "WNAM": Place(37.0, -120.0),
    "ENAM": Place(40.0, -80.0),
    "WEU": Place(48.0, 5.0),
    "EEU": Place(50.0, 25.0),
    "NSAM": Place(0.0, -65.0),
    "SSAM": Place(-30.0, -60.0),
    "OC": Place(-28.0, 145.0),
    "ME": Place(28.0, 45.0),
    "NAF": Place(28.0, 10.0),
    "SAF": Place(-15.0, 25.0),
    "SAS": Place(20.0, 78.0),
    "SEAS": Place(10.0, 105.0),
    "NEAS": Place(36.0, 125.0),
}
"""Cloudflare's region codes, and about the middle of each."""

_HEAD: Final = """\
# The front door by Cloudflare Load Balancing. Rendered by `loyalty edge render --for cloudflare`; do not edit.
# {standing}
# More than one rule for a load balancer needs an Enterprise plan, intervals below 60 s a paid one. Without the rules
# everything works, with one hop more for members who are not at home.

terraform {{
  required_providers {{
    cloudflare = {{
      source  = "cloudflare/cloudflare"
      version = "~> 5.0"
    }}
  }}
}}

variable "account_id" {{
  type = string
}}

variable "zone_id" {{
  type = string
}}

variable "host" {{
  description = "The one name of the system, like api.example.com."
  type        = string
}}

variable "doors" {{
  description = "Host name or address of each region's own door (Envoy): {regions}."
  type        = map(string)
}}

resource "cloudflare_load_balancer_monitor" "ready" {{
  account_id       = var.account_id
  type             = "https"
  method           = "GET"
  path             = "/readyz"
  expected_codes   = "200"
  interval         = 15
  timeout          = 3
  retries          = 2
  consecutive_down = 2
  consecutive_up   = 2
  header = {{
    Host = [var.host]
  }}
}}

resource "cloudflare_load_balancer_pool" "region" {{
  for_each        = var.doors
  account_id      = var.account_id
  name            = "loyalty-${{each.key}}"
  monitor         = cloudflare_load_balancer_monitor.ready.id
  minimum_origins = 1
  origins = [
    {{
      name    = "door"
      address = each.value
      enabled = true
      weight  = 1
      header = {{
        host = [var.host]
      }}
    }}
  ]
}}
"""


def render_cloudflare(door: Door) -> str:
    """The whole file."""
    head = _HEAD.format(standing=STANDING, regions=", ".join(door.topology.regions))
    return f"{head}\n{_locals(door)}\n{_balancer(door)}"


def _locals(door: Door) -> str:
    """For each region the pools in the order of the decision, the region itself first."""
    lines = [f"    {quoted(region)} = [{_pools(door.order(region))}]" for region in door.topology.regions]
    return "\n".join(["locals {", "  first = {", *lines, "  }", "}", ""])


def _pools(regions: tuple[str, ...]) -> str:
    return ", ".join(f"cloudflare_load_balancer_pool.region[{quoted(region)}].id" for region in regions)


def _balancer(door: Door) -> str:
    return "\n".join(
        [
            'resource "cloudflare_load_balancer" "door" {',
            "  zone_id         = var.zone_id",
            "  name            = var.host",
            "  proxied         = true",
            '  steering_policy = "geo"',
            f"  default_pools   = local.first[{quoted(door.nearest)}]",
            # Used when all pools are unwell, without a look at their health.
            f"  fallback_pool   = local.first[{quoted(door.nearest)}][0]",
            "  adaptive_routing = {",
            "    failover_across_pools = true",
            "  }",
            "  region_pools = {",
            *(
                f"    {part} = local.first[{quoted(_nearest(door, place))}]"
                for part, place in PARTS_OF_THE_WORLD.items()
            ),
            "  }",
            "  rules = [",
            *(_rule(region, number) for region, number in door.numbers().items()),
            "  ]",
            "}",
            "",
        ]
    )


def _nearest(door: Door, place: Place) -> str:
    return door.geography.from_place(place)[0]


def _rule(region: str, number: int) -> str:
    return f"""\
    {{
      name      = {quoted(f"home-{region}")}
      condition = {quoted(condition(number))}
      overrides = {{
        default_pools   = local.first[{quoted(region)}]
        steering_policy = "off"
      }}
    }},"""


def condition(number: int) -> str:
    """The expression of Cloudflare's rules language for what names a member of a region."""
    header = f'lower(http.request.headers["{MEMBER_HEADER}"][0])'
    lookup = f"(http.request.uri.path eq {quoted(LOOKUP)} and starts_with(http.request.uri.query, "
    card = f"{lookup}{quoted(f'card={card_prefix(number)}')}))"
    starts = [("lower(http.request.uri.path)", start) for start in path_prefixes(number)]
    starts += [(header, start) for start in (*(prefix.lower() for prefix in id_prefixes(number)), card_prefix(number))]
    return " or ".join([*(f"starts_with({text}, {quoted(start)})" for text, start in starts), card])
