"""Whether Schemathesis has followed the links that the document declares: `links.py DOCUMENT REPORT`, the report in NDJSON.

Schemathesis is content with a phase that was left out, and with links that never lead anywhere. Which it follows in its time is not quite the
same in each run: a few may be left out.
"""

import json
import sys


def declared(document):
    """Its links, by the names that Schemathesis gives them."""
    operations = [
        (f"{method.upper()} {path}", operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if "operationId" in operation
    ]
    labels = {operation["operationId"]: label for label, operation in operations}
    return {
        f"{label} -> [{status}] {name} -> {labels[link['operationId']]}"
        for label, operation in operations
        for status, response in operation["responses"].items()
        for name, link in response.get("links", {}).items()
    }


def followed(report):
    """Links by which a request was made with what an answer to another one gave; None when the phase for that has not run."""
    phases, links = set(), set()
    for event in (json.loads(line) for line in report):
        phase = event.get("PhaseFinished", {})
        if phase.get("status") == "success":
            phases.add(phase["phase"]["name"])
        scenario = event.get("ScenarioFinished", {})
        for case in scenario.get("recorder", {}).get("cases", {}).values():
            if case.get("is_transition_applied"):
                links.add(case["transition"]["id"])
    return links if "stateful" in phases else None


def main():
    document, report = sys.argv[1:]
    with open(document, encoding="utf-8") as file:
        links = declared(json.load(file))
    with open(report, encoding="utf-8") as file:
        reached = followed(file)
    if not links:
        sys.exit("schemathesis: the document declares no links")
    if reached is None:
        sys.exit("schemathesis: the stateful phase has not run")
    missed = sorted(links - reached)
    said = "\n  ".join([f"schemathesis: {len(links) - len(missed)} of {len(links)} links were followed", *missed])
    if len(missed) > len(links) // 5:
        sys.exit(said)
    print(said)


main()
