# The front door by AWS Global Accelerator. Rendered by `loyalty edge render --for aws`; do not edit.
# Only parsed (python-hcl2), never planned or applied: no account and no provider was at hand.
# Behind each endpoint (a Network Load Balancer that keeps client addresses) runs Envoy with what
# `loyalty edge render --for envoy --nearest REGION` renders.

terraform {
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

variable "aws_regions" {
  description = "The AWS region in which each region of the system stands."
  type        = map(string)
  default = {
    "eu" = "eu-central-1"
    "us" = "us-east-1"
    "ap" = "ap-northeast-1"
  }
}

variable "doors" {
  description = "The ARN of the load balancer before each region's Envoy."
  type        = map(string)
}

resource "aws_globalaccelerator_accelerator" "door" {
  name            = "loyalty"
  ip_address_type = "IPV4"
  enabled         = true
}

resource "aws_globalaccelerator_listener" "https" {
  accelerator_arn = aws_globalaccelerator_accelerator.door.id
  protocol        = "TCP"
  client_affinity = "NONE"
  port_range {
    from_port = 443
    to_port   = 443
  }
}

locals {
  weights = {
    "eu" = 128
    "us" = 128
    "ap" = 128
  }
}

# Health is that of the load balancer, which asks Envoy.
resource "aws_globalaccelerator_endpoint_group" "region" {
  for_each                = local.weights
  listener_arn            = aws_globalaccelerator_listener.https.id
  endpoint_group_region   = var.aws_regions[each.key]
  traffic_dial_percentage = 100
  endpoint_configuration {
    endpoint_id                    = var.doors[each.key]
    weight                         = each.value
    client_ip_preservation_enabled = true
  }
}
