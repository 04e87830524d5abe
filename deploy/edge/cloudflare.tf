# The front door by Cloudflare Load Balancing. Rendered by `loyalty edge render --for cloudflare`; do not edit.
# Only parsed (python-hcl2), never planned or applied: no account and no provider was at hand.
# More than one rule for a load balancer needs an Enterprise plan, intervals below 60 s a paid one. Without the rules
# everything works, with one hop more for members who are not at home.

terraform {
  required_providers {
    cloudflare = {
      source  = "cloudflare/cloudflare"
      version = "~> 5.0"
    }
  }
}

variable "account_id" {
  type = string
}

variable "zone_id" {
  type = string
}

variable "host" {
  description = "The one name of the system, like api.example.com."
  type        = string
}

variable "doors" {
  description = "Host name or address of each region's own door (Envoy): eu, us, ap."
  type        = map(string)
}

resource "cloudflare_load_balancer_monitor" "ready" {
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
  header = {
    Host = [var.host]
  }
}

resource "cloudflare_load_balancer_pool" "region" {
  for_each        = var.doors
  account_id      = var.account_id
  name            = "loyalty-${each.key}"
  monitor         = cloudflare_load_balancer_monitor.ready.id
  minimum_origins = 1
  origins = [
    {
      name    = "door"
      address = each.value
      enabled = true
      weight  = 1
      header = {
        host = [var.host]
      }
    }
  ]
}

locals {
  first = {
    "eu" = [cloudflare_load_balancer_pool.region["eu"].id, cloudflare_load_balancer_pool.region["us"].id, cloudflare_load_balancer_pool.region["ap"].id]
    "us" = [cloudflare_load_balancer_pool.region["us"].id, cloudflare_load_balancer_pool.region["eu"].id, cloudflare_load_balancer_pool.region["ap"].id]
    "ap" = [cloudflare_load_balancer_pool.region["ap"].id, cloudflare_load_balancer_pool.region["eu"].id, cloudflare_load_balancer_pool.region["us"].id]
  }
}

resource "cloudflare_load_balancer" "door" {
  zone_id         = var.zone_id
  name            = var.host
  proxied         = true
  steering_policy = "geo"
  default_pools   = local.first["eu"]
  fallback_pool   = local.first["eu"][0]
  adaptive_routing = {
    failover_across_pools = true
  }
  region_pools = {
    WNAM = local.first["us"]
    ENAM = local.first["us"]
    WEU = local.first["eu"]
    EEU = local.first["eu"]
    NSAM = local.first["us"]
    SSAM = local.first["us"]
    OC = local.first["ap"]
    ME = local.first["eu"]
    NAF = local.first["eu"]
    SAF = local.first["eu"]
    SAS = local.first["ap"]
    SEAS = local.first["ap"]
    NEAS = local.first["ap"]
  }
  rules = [
    {
      name      = "home-eu"
      condition = "starts_with(lower(http.request.uri.path), \"/v1/members/04\") or starts_with(lower(http.request.uri.path), \"/v1/members/05\") or starts_with(lower(http.request.uri.path), \"/v1/members/06\") or starts_with(lower(http.request.uri.path), \"/v1/members/07\") or starts_with(lower(http.request.uri.path), \"/v1/purchases/pur_04\") or starts_with(lower(http.request.uri.path), \"/v1/purchases/pur_05\") or starts_with(lower(http.request.uri.path), \"/v1/purchases/pur_06\") or starts_with(lower(http.request.uri.path), \"/v1/purchases/pur_07\") or starts_with(lower(http.request.uri.path), \"/v1/holds/hld_04\") or starts_with(lower(http.request.uri.path), \"/v1/holds/hld_05\") or starts_with(lower(http.request.uri.path), \"/v1/holds/hld_06\") or starts_with(lower(http.request.uri.path), \"/v1/holds/hld_07\") or starts_with(lower(http.request.uri.path), \"/v1/redemptions/red_04\") or starts_with(lower(http.request.uri.path), \"/v1/redemptions/red_05\") or starts_with(lower(http.request.uri.path), \"/v1/redemptions/red_06\") or starts_with(lower(http.request.uri.path), \"/v1/redemptions/red_07\") or starts_with(lower(http.request.headers[\"loyalty-member\"][0]), \"04\") or starts_with(lower(http.request.headers[\"loyalty-member\"][0]), \"05\") or starts_with(lower(http.request.headers[\"loyalty-member\"][0]), \"06\") or starts_with(lower(http.request.headers[\"loyalty-member\"][0]), \"07\") or starts_with(lower(http.request.headers[\"loyalty-member\"][0]), \"01\") or (http.request.uri.path eq \"/v1/lookup\" and starts_with(http.request.uri.query, \"card=01\"))"
      overrides = {
        default_pools   = local.first["eu"]
        steering_policy = "off"
      }
    },
    {
      name      = "home-us"
      condition = "starts_with(lower(http.request.uri.path), \"/v1/members/08\") or starts_with(lower(http.request.uri.path), \"/v1/members/09\") or starts_with(lower(http.request.uri.path), \"/v1/members/0a\") or starts_with(lower(http.request.uri.path), \"/v1/members/0b\") or starts_with(lower(http.request.uri.path), \"/v1/purchases/pur_08\") or starts_with(lower(http.request.uri.path), \"/v1/purchases/pur_09\") or starts_with(lower(http.request.uri.path), \"/v1/purchases/pur_0a\") or starts_with(lower(http.request.uri.path), \"/v1/purchases/pur_0b\") or starts_with(lower(http.request.uri.path), \"/v1/holds/hld_08\") or starts_with(lower(http.request.uri.path), \"/v1/holds/hld_09\") or starts_with(lower(http.request.uri.path), \"/v1/holds/hld_0a\") or starts_with(lower(http.request.uri.path), \"/v1/holds/hld_0b\") or starts_with(lower(http.request.uri.path), \"/v1/redemptions/red_08\") or starts_with(lower(http.request.uri.path), \"/v1/redemptions/red_09\") or starts_with(lower(http.request.uri.path), \"/v1/redemptions/red_0a\") or starts_with(lower(http.request.uri.path), \"/v1/redemptions/red_0b\") or starts_with(lower(http.request.headers[\"loyalty-member\"][0]), \"08\") or starts_with(lower(http.request.headers[\"loyalty-member\"][0]), \"09\") or starts_with(lower(http.request.headers[\"loyalty-member\"][0]), \"0a\") or starts_with(lower(http.request.headers[\"loyalty-member\"][0]), \"0b\") or starts_with(lower(http.request.headers[\"loyalty-member\"][0]), \"02\") or (http.request.uri.path eq \"/v1/lookup\" and starts_with(http.request.uri.query, \"card=02\"))"
      overrides = {
        default_pools   = local.first["us"]
        steering_policy = "off"
      }
    },
    {
      name      = "home-ap"
      condition = "starts_with(lower(http.request.uri.path), \"/v1/members/0c\") or starts_with(lower(http.request.uri.path), \"/v1/members/0d\") or starts_with(lower(http.request.uri.path), \"/v1/members/0e\") or starts_with(lower(http.request.uri.path), \"/v1/members/0f\") or starts_with(lower(http.request.uri.path), \"/v1/purchases/pur_0c\") or starts_with(lower(http.request.uri.path), \"/v1/purchases/pur_0d\") or starts_with(lower(http.request.uri.path), \"/v1/purchases/pur_0e\") or starts_with(lower(http.request.uri.path), \"/v1/purchases/pur_0f\") or starts_with(lower(http.request.uri.path), \"/v1/holds/hld_0c\") or starts_with(lower(http.request.uri.path), \"/v1/holds/hld_0d\") or starts_with(lower(http.request.uri.path), \"/v1/holds/hld_0e\") or starts_with(lower(http.request.uri.path), \"/v1/holds/hld_0f\") or starts_with(lower(http.request.uri.path), \"/v1/redemptions/red_0c\") or starts_with(lower(http.request.uri.path), \"/v1/redemptions/red_0d\") or starts_with(lower(http.request.uri.path), \"/v1/redemptions/red_0e\") or starts_with(lower(http.request.uri.path), \"/v1/redemptions/red_0f\") or starts_with(lower(http.request.headers[\"loyalty-member\"][0]), \"0c\") or starts_with(lower(http.request.headers[\"loyalty-member\"][0]), \"0d\") or starts_with(lower(http.request.headers[\"loyalty-member\"][0]), \"0e\") or starts_with(lower(http.request.headers[\"loyalty-member\"][0]), \"0f\") or starts_with(lower(http.request.headers[\"loyalty-member\"][0]), \"03\") or (http.request.uri.path eq \"/v1/lookup\" and starts_with(http.request.uri.query, \"card=03\"))"
      overrides = {
        default_pools   = local.first["ap"]
        steering_policy = "off"
      }
    },
  ]
}
