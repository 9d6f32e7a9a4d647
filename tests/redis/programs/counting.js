// Counts with ioredis, plain and as a cluster client. Arguments: the nodes' addresses.
"use strict";
const assert = require("node:assert");
const { Redis, Cluster } = require("ioredis");

const addresses = process.argv.slice(2).map((address) => {
  const colon = address.lastIndexOf(":");
  return { host: address.slice(0, colon), port: Number(address.slice(colon + 1)) };
});
const pages = Array.from({ length: 12 }, (_, number) => `js-${number}`);

async function plain() {
  const client = new Redis({ ...addresses[1], connectionName: "counting" });
  for (const page of pages) {
    const pipeline = client.pipeline();
    for (let count = 0; count < 100; count += 1) pipeline.incr(page);
    const answers = await pipeline.exec();
    assert.deepStrictEqual(answers.map(([error, count]) => [error, count]), answers.map((_, index) => [null, index + 1]));
  }
  assert.strictEqual(await client.get("nobody"), null);
  assert.strictEqual(await client.client("GETNAME"), "counting");
  await assert.rejects(client.incr(pages[0], "TOKEN"), /wrong number of arguments/);
  await client.quit();
}

async function cluster() {
  const client = new Cluster(addresses);
  for (const page of pages) {
    await Promise.all(Array.from({ length: 200 }, () => client.incr(page)));
    assert.strictEqual(await client.get(page), "300");
  }
  const masters = client.nodes("master");
  assert.strictEqual(masters.length, addresses.length);
  const sizes = await Promise.all(masters.map((master) => master.dbsize()));
  assert.strictEqual(sizes.reduce((sum, size) => sum + size, 0), pages.length);
  await client.quit();
}

plain()
  .then(cluster)
  .then(() => console.log("counted 300 on every page"))
  .catch((error) => {
    console.error(error);
    process.exit(1);
  });
