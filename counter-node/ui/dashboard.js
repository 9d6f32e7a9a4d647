// The dashboard: the site's number and its last minutes. The other parts are modules of their own.

import { follow } from "./follow.js";
import { parse } from "./live.js";
import { get, numbers, repeat } from "./repeat.js";
import "./pages.js";
import "./cluster.js";
import "./try.js";

const FACTS_MS = 3000;

follow(document.getElementById("site"), "site");

repeat(
  FACTS_MS,
  async () => {
    const facts = parse(await get("counter?detail=true"));
    for (const name of ["viewers", "tally", "replicas"]) {
      document.getElementById(name).textContent = facts[name] === undefined ? "–" : numbers.format(facts[name]);
    }
  },
  () => {}, // the state of the connection says it
);
