"""AWS Global Accelerator as Terraform: two addresses for the world, and behind them the door of each region.

It looks at no path: the client reaches the nearest region's door (Envoy), and that one knows the member's home. A
region is evacuated by weight 0: one whose dial is 0 would still take what other regions lose.
"""

from typing import Final

from edge.decision import WHOLE, Door
from edge.hcl import quoted

STANDING: Final = "Only parsed (python-hcl2), never planned or applied: no account and no provider was at hand."
REGIONS_OF_AWS: Final = {
    "eu": "eu-central-1",
    "uk": "eu-west-2",
    "us": "us-east-1",
    "usw": "us-west-2",
    "ca": "ca-central-1",
    "sa": "sa-east-1",
    "ap": "ap-northeast-1",
    "sg": "ap-southeast-1",
    "in": "ap-south-1",
    "au": "ap-southeast-2",
    "me": "me-central-1",
    "af": "af-south-1",
}
"""Where regions of well-known names usually stand; `aws_regions` of the file says otherwise."""

_WEIGHT: Final = 128
_FILE: Final = """\
# The front door by AWS Global Accelerator. Rendered by `loyalty edge render --for aws`; do not edit.
# {standing}
# Behind each endpoint (a Network Load Balancer that keeps client addresses) runs Envoy with what
# `loyalty edge render --for envoy --nearest REGION` renders.

terraform {{
  required_providers {{
    aws = {{
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }}
  }}
}}

variable "aws_regions" {{
  description = "The AWS region in which each region of the system stands."
  type        = map(string)
  default = {{
{regions}
  }}
}}

variable "doors" {{
  description = "The ARN of the load balancer before each region's Envoy."
  type        = map(string)
}}

resource "aws_globalaccelerator_accelerator" "door" {{
  name            = "loyalty"
  ip_address_type = "IPV4"
  enabled         = true
}}

resource "aws_globalaccelerator_listener" "https" {{
  accelerator_arn = aws_globalaccelerator_accelerator.door.id
  protocol        = "TCP"
  client_affinity = "NONE"
  port_range {{
    from_port = 443
    to_port   = 443
  }}
}}

locals {{
  weights = {{
{weights}
  }}
}}

# Health is that of the load balancer, which asks Envoy.
resource "aws_globalaccelerator_endpoint_group" "region" {{
  for_each                = local.weights
  listener_arn            = aws_globalaccelerator_listener.https.id
  endpoint_group_region   = var.aws_regions[each.key]
  traffic_dial_percentage = 100
  endpoint_configuration {{
    endpoint_id                    = var.doors[each.key]
    weight                         = each.value
    client_ip_preservation_enabled = true
  }}
}}
"""


def render_aws(door: Door) -> str:
    """The whole file."""
    regions = door.topology.regions
    stand = "\n".join(f"    {quoted(region)} = {quoted(REGIONS_OF_AWS.get(region, region))}" for region in regions)
    weights = "\n".join(f"    {quoted(region)} = {_weight(door, region)}" for region in regions)
    return _FILE.format(standing=STANDING, regions=stand, weights=weights)


def _weight(door: Door, region: str) -> int:
    return _WEIGHT * door.share(region) // WHOLE
