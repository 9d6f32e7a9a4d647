"""What OpenAPI cannot say of this API, told to Schemathesis.

Limits on names count bytes of UTF-8, where a schema's count characters. And a client's session is text that a node gave out: any
other is refused, however well-formed.
"""

import schemathesis
from schemathesis import GenerationMode

PAGE_BYTES_MAX = 512
ID_BYTES_MAX = 128
SESSION = "Counter-Session"
# Of a session a batch may have fewer updates.
SESSION_UPDATES_MAX = 64


def should_be_taken(case):
    return case.meta is not None and case.meta.generation.mode == GenerationMode.POSITIVE


def fits(values, name, bytes_max):
    value = values.get(name) if hasattr(values, "get") else None
    ones = value if isinstance(value, list) else [value]
    return all(len(str(one).encode("utf-8", "surrogatepass")) <= bytes_max for one in ones if one is not None)


@schemathesis.hook
def map_case(context, case):
    """A request that should be taken begins a session where it would have made one up. Links bring real ones."""
    if should_be_taken(case) and case.headers and case.headers.get(SESSION):
        case.headers[SESSION] = "new"
    return case


@schemathesis.hook
def filter_case(context, case):
    """Of requests that should be taken, those with a name that is too long, or too many updates, are left out. Wrong ones are all sent."""
    body = case.body if isinstance(case.body, dict) else {}
    updates = body.get("updates") if isinstance(body.get("updates"), list) else []
    return not should_be_taken(case) or (
        fits(case.path_parameters, "page", PAGE_BYTES_MAX)
        and all(fits(case.path_parameters, name, ID_BYTES_MAX) for name in ("id", "user"))
        and all(fits(case.query, name, PAGE_BYTES_MAX) for name in ("page", "prefix"))
        and all(fits(case.query, name, ID_BYTES_MAX) for name in ("session", "user", "resume"))
        and fits(body, "user", ID_BYTES_MAX)
        and all(fits(update, "page", PAGE_BYTES_MAX) for update in updates)
        and (SESSION not in (case.headers or {}) or len(updates) <= SESSION_UPDATES_MAX)
    )
