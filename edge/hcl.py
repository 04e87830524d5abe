"""Values as HCL writes them: the configuration language of Terraform."""

import json


def quoted(text: str) -> str:
    """A string, with nothing in it that HCL would fill in."""
    return json.dumps(text).replace("${", "$${").replace("%{", "%%{")
