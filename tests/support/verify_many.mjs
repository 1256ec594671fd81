// Lines of JSON in, lines of JSON out: many questions to the second verifier in one process.
import { createInterface } from "node:readline";
import * as verifier from "../../verifier/verify.mjs";

const bytes = (text) => Buffer.from(text, "base64");
const asked = {
  verify: ({ receipt, trust }) => verifier.verify(bytes(receipt), verifier.decodeTrust(bytes(trust))),
  canonical: ({ json }) => verifier.canonical(JSON.parse(bytes(json).toString())),
  decode: ({ json }) => verifier.canonical(verifier.decodeCanonical(bytes(json))),
  root: ({ leaf, index, size, path }) =>
    verifier.rootOf(bytes(leaf), index, size, path.map(bytes))?.toString("base64") ?? null,
  signed: ({ key, text, signature }) => {
    const known = verifier.parseKey(key);
    const each = { name: known.name, id: known.id, signature: bytes(signature) };
    return verifier.signedBy(known, bytes(text), each);
  },
  note: ({ note, key }) => {
    const { text, signatures } = verifier.parseNote(bytes(note).toString());
    const known = verifier.parseKey(key);
    if (!signatures.some((each) => verifier.signedBy(known, text, each))) {
      throw new verifier.Refused("nobody known has signed it");
    }
    const { origin, size, root } = verifier.parseCheckpoint(text);
    return { origin, size, root: root.toString("base64") };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const question = JSON.parse(line);
  let answer;
  try {
    answer = { found: asked[question.ask](question) };
  } catch (error) {
    const known = error instanceof verifier.Refused || error instanceof verifier.TrustInvalid;
    answer = { refused: error.message, kind: known ? error.constructor.name : `bug ${error.stack}` };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
