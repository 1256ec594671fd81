// A second verifier of Holdfast's receipts: plain JavaScript for Node, no dependencies.
//
//   node verify.mjs r.json --trust holdfast.trust [--json]
//
// Exit status 0: the receipt holds. 7: it does not, and the message says which step does not fit.
// 2: the call or the policy file cannot be used. It shares no code with the first verifier; what it
// knows is the format (docs/guides/receipts.md), RFC 8785, RFC 9162 and C2SP signed notes.

import { createHash, createHmac, createPublicKey, verify as ed25519 } from "node:crypto";
import { readFileSync, realpathSync } from "node:fs";
import { fileURLToPath } from "node:url";

const FORMAT = "holdfast-receipt/v1";
const SIGNED_FORMAT = "holdfast-receipt/v2"; // with an attribution
const RECEIPT_BYTES_MAX = 16 * 1024 * 1024;
const DEPTH_MAX = 64;

/** The receipt does not hold. */
export class Refused extends Error {}

/** The policy file cannot be used. */
export class TrustInvalid extends Error {}

function refuse(reason) {
  throw new Refused(`cannot accept the receipt: ${reason}`);
}

// --- canonical JSON (RFC 8785, restricted) --------------------------------------------------------

/** The canonical text of plain data: integers within ±(2^53−1) only, no lone surrogates. */
export function canonical(value, depth = 0) {
  if (depth > DEPTH_MAX) refuse("it is nested too deeply");
  if (value === null || typeof value === "boolean") return String(value);
  if (typeof value === "string") return text(value);
  if (typeof value === "number") {
    if (!Number.isSafeInteger(value) || Object.is(value, -0)) refuse("a number in it is no integer");
    return String(value);
  }
  if (Array.isArray(value)) {
    return `[${value.map((each) => canonical(each, depth + 1)).join(",")}]`;
  }
  if (typeof value !== "object") refuse("something in it has no canonical form");
  // The default order of texts is that of their UTF-16 code units, as RFC 8785 wants it.
  const members = Object.keys(value).sort();
  return `{${members.map((name) => `${text(name)}:${canonical(value[name], depth + 1)}`).join(",")}}`;
}

function text(value) {
  if (!value.isWellFormed()) refuse("a text in it holds a lone surrogate");
  return JSON.stringify(value);
}

/** Plain data from bytes that must be canonical already. */
export function decodeCanonical(bytes) {
  const said = utf8(bytes);
  let plain;
  try {
    plain = JSON.parse(said);
  } catch {
    refuse("it is not JSON");
  }
  // Repeated members, other spellings of numbers and texts, spaces: all give other bytes.
  if (canonical(plain) !== said) refuse("it is not in its canonical form");
  return plain;
}

function utf8(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return refuse("it is not UTF-8");
  }
}

// --- shapes ---------------------------------------------------------------------------------------

function members(value, names, what) {
  if (value === null || typeof value !== "object" || Array.isArray(value)) refuse(`${what} is missing`);
  const found = Object.keys(value).sort().join(" ");
  if (found !== [...names].sort().join(" ")) refuse(`${what} has other members than it must have`);
  return value;
}

function string(value, what) {
  if (typeof value !== "string") refuse(`${what} is no text`);
  return value;
}

function same(value, expected, what) {
  if (value !== expected) refuse(what);
}

function integer(value, what) {
  if (!Number.isSafeInteger(value) || value < 0) refuse(`${what} is no number`);
  return value;
}

function hash(value, what) {
  if (typeof value !== "string" || !/^[0-9a-f]{64}$/.test(value)) refuse(`${what} is no hash`);
  return Buffer.from(value, "hex");
}

function object(value, what) {
  if (value === null || typeof value !== "object" || Array.isArray(value)) refuse(`${what} is none`);
  return value;
}

// --- hashes and the tree (RFC 9162 §2.1) ----------------------------------------------------------

const sha256 = (...parts) => {
  const made = createHash("sha256");
  for (const part of parts) made.update(part);
  return made.digest();
};

const mac = (salt, data) => createHmac("sha256", salt).update(data).digest("hex");

/** The hash of a leaf. */
export const leafHash = (data) => sha256(Buffer.of(0), data);

/** The root that a path leads to from leaf hash `leaf` at `index` of `size`; null if to none. */
export function rootOf(leaf, index, size, path) {
  if (!Number.isSafeInteger(index) || !Number.isSafeInteger(size)) return null;
  if (index < 0 || index >= size || leaf.length !== 32) return null;
  // Sizes go up to 2^53: no bitwise operators, which stop at 2^32.
  let [at, last, found] = [index, size - 1, leaf];
  for (const sibling of path) {
    if (last === 0 || sibling.length !== 32) return null;
    if (at % 2 === 1 || at === last) {
      found = sha256(Buffer.of(1), sibling, found);
      while (at % 2 === 0 && at !== 0) [at, last] = [at / 2, Math.floor(last / 2)];
    } else {
      found = sha256(Buffer.of(1), found, sibling);
    }
    [at, last] = [Math.floor(at / 2), Math.floor(last / 2)];
  }
  return last === 0 ? found : null;
}

function included(reason, data, index, size, path, root) {
  if (!Array.isArray(path)) refuse(`${reason}: there is no path`);
  const hashes = path.map((each) => hash(each, `${reason}: a part of its path`));
  const found = rootOf(leafHash(data), integer(index, "an index"), integer(size, "a size"), hashes);
  if (found === null || !found.equals(root)) refuse(reason);
}

// --- notes (C2SP signed-note and tlog-checkpoint) -------------------------------------------------

function base64(said, what) {
  const data = Buffer.from(said, "base64");
  if (data.toString("base64") !== said) refuse(`${what} is not base64`);
  return data;
}

/** The Ed25519 key in its C2SP spelling `name+hash+key`. */
export function parseKey(said) {
  const [name, hashed, ...rest] = string(said, "a key").split("+");
  const data = base64(rest.join("+"), "a key"); // base64 itself may hold a plus
  if (!/^[^\s+]{1,255}$/.test(name) || data.length !== 33 || data[0] !== 1) refuse("a key is none");
  const id = sha256(`${name}\n`, data).subarray(0, 4);
  if (id.toString("hex") !== hashed) refuse("a key has another's hash");
  return { name, id, key: ed25519Key(data.subarray(1)) };
}

function ed25519Key(bytes) {
  const x = bytes.toString("base64url");
  return createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x }, format: "jwk" });
}

/** Text and signatures of a note, nothing checked. */
export function parseNote(note) {
  for (const character of string(note, "its checkpoint")) {
    if (character < " " && character !== "\n") refuse("its checkpoint holds control characters");
  }
  const at = note.lastIndexOf("\n\n");
  if (at < 1 || !note.endsWith("\n")) refuse("its checkpoint has no signature");
  const signatures = note.slice(at + 2, -1).split("\n").map((line) => {
    const match = /^— ([^\s+]+) ([A-Za-z0-9+/]+={0,2})$/.exec(line);
    if (match === null) refuse("a signature line is malformed");
    const data = base64(match[2], "a signature");
    if (data.length !== 68) refuse("a signature has another length");
    return { name: match[1], id: data.subarray(0, 4), signature: data.subarray(4) };
  });
  return { text: note.slice(0, at + 1), signatures };
}

/** Whether `key` made this signature of `text`. */
export function signedBy(key, said, each) {
  if (key.name !== each.name || !key.id.equals(each.id)) return false;
  return ed25519(null, Buffer.from(said), key.key, each.signature);
}

/** Origin, size and root of a checkpoint's text. */
export function parseCheckpoint(said) {
  const lines = said.split("\n");
  if (lines.length !== 4 || lines[3] !== "") refuse("its checkpoint is none");
  const [origin, size, root] = lines;
  const hashed = base64(root, "the checkpoint's root");
  if (!origin || !/^(0|[1-9][0-9]{0,15})$/.test(size) || hashed.length !== 32) {
    refuse("its checkpoint is none");
  }
  return { origin, size: integer(Number(size), "the checkpoint's size"), root: hashed };
}

function signed(note, trust) {
  const { text: said, signatures } = parseNote(note);
  if (signatures.length !== 1) refuse("its checkpoint has more than the log's own signature");
  const known = trust.keys.find((each) => signedBy(each.key, said, signatures[0]));
  if (known === undefined) refuse("no key of the policy has signed its checkpoint");
  const told = parseCheckpoint(said);
  if (told.origin !== known.origin) refuse("its checkpoint is signed by the key of another log");
  if (told.size < known.from || (known.to !== null && told.size > known.to)) {
    const until = known.to === null ? "on" : `to ${known.to}`;
    refuse(`its checkpoint has the size ${told.size}; its key is valid from ${known.from} ${until}`);
  }
  return told;
}

// --- the policy file ------------------------------------------------------------------------------

/** The policy in `bytes`: the tenant, and the keys with what they are valid for. */
export function decodeTrust(bytes) {
  try {
    const plain = object(JSON.parse(utf8(bytes)), "the policy");
    if (plain.format !== 1 || !Array.isArray(plain.keys) || plain.keys.length === 0) {
      refuse("no keys, or another format");
    }
    if (!Array.isArray(plain.origins)) refuse("no origins");
    const keys = plain.keys.map((each) => {
      const key = parseKey(each.key);
      const to = each.valid_to ?? null;
      if (key.name !== each.origin || !plain.origins.includes(each.origin)) refuse("a key is misplaced");
      if (to !== null) integer(to, "valid_to");
      return { key, origin: each.origin, from: integer(each.valid_from, "valid_from"), to };
    });
    if (string(plain.tenant, "tenant") === "") refuse("no tenant");
    return { tenant: plain.tenant, keys };
  } catch (error) {
    throw new TrustInvalid(`cannot use the policy file: ${error.message}`);
  }
}

// --- the receipt ----------------------------------------------------------------------------------

/** What the receipt in `bytes` shows to whoever trusts `trust`; throws Refused if it does not hold. */
export function verify(bytes, trust) {
  const receipt = decodeReceipt(bytes);
  const told = signed(receipt.checkpoint, trust);
  const payload = checkEntry(receipt.entry, told, trust.tenant);
  // Only Holdfast's own roles append to streams of profiles and of workers.
  if (receipt.entry.leaf.type !== "records.ingested" || receipt.entry.leaf.stream !== `profile/${payload.profile}`) {
    refuse("its event is none that tells of published records");
  }
  const shown = checkRecord(receipt.record, payload);
  const raw = checkRaw(receipt.raw, receipt.record, payload);
  const bySigner = receipt.record.leaf.domain === "holdfast-record-leaf/v2";
  if (bySigner !== (receipt.attribution !== null)) refuse("whether its worker signed the record is told in two ways");
  const key = bySigner ? checkAttribution(receipt.attribution, receipt.record, payload, raw, told, trust) : null;
  return account(receipt, told, payload, shown, raw, key);
}

function decodeReceipt(bytes) {
  if (bytes.length > RECEIPT_BYTES_MAX) refuse(`it has more than ${RECEIPT_BYTES_MAX} bytes`);
  const tail = /^,"sha256":"([0-9a-f]{64})"\}\n$/.exec(bytes.subarray(-78).toString("latin1"));
  if (tail === null) refuse("it does not end in its SHA-256: it was cut off, or is no receipt");
  const body = Buffer.concat([bytes.subarray(0, -78), Buffer.from("}")]);
  if (sha256(body).toString("hex") !== tail[1]) refuse("its SHA-256 is another");
  const names = ["attribution", "checkpoint", "entry", "format", "raw", "record"];
  const receipt = members(decodeCanonical(body), names, "the receipt");
  if (![FORMAT, SIGNED_FORMAT].includes(receipt.format)) refuse("its format is not known here");
  if ((receipt.attribution === null) !== (receipt.format === FORMAT)) {
    refuse("its format and its attribution do not go together");
  }
  return receipt;
}

function checkEntry(given, told, tenant) {
  const entry = members(given, ["index", "leaf", "path", "payload", "salt"], "its event");
  const leaf = object(entry.leaf, "the event's leaf");
  const payload = object(entry.payload, "the event's payload");
  const reason = "the event is not in the log that was signed";
  included(reason, canonical(leaf), entry.index, told.size, entry.path, told.root);
  if (leaf.tenant !== tenant) refuse("it is of another tenant than the policy's");
  const said = Buffer.from(canonical(payload));
  if (mac(hash(entry.salt, "the event's salt"), said) !== leaf.commitment || said.length !== leaf.length) {
    refuse("what the event is said to say is not what was committed to");
  }
  return payload;
}

function checkRecord(given, payload) {
  const names = ["batch", "batch_index", "batch_path", "content", "index", "leaf", "path", "salt"];
  const record = members(given, names, "its record");
  const more = { "holdfast-batch-leaf/v1": [], "holdfast-batch-leaf/v2": ["header", "signature"] };
  const domain = object(record.batch, "its batch").domain;
  if (!Object.hasOwn(more, domain)) refuse("its batch is none");
  const batch = members(record.batch, ["batch", "domain", "kind", "root", "rows", ...more[domain]], "its batch");
  included(
    "the batch is not in the run that the event tells of",
    canonical(batch),
    record.batch_index,
    payload.batches_count,
    record.batch_path,
    hash(payload.root, "the run's root"),
  );
  const fields = ["commitment", "domain", "profile", "record", "revision", "run", "withdrawn"];
  const leaf = members(record.leaf, fields, "the record's leaf");
  if (!/^holdfast-record-leaf\/v[12]$/.test(string(leaf.domain, "a domain"))) refuse("its record's leaf is none");
  included(
    "the record is not in the batch",
    canonical(leaf),
    record.index,
    batch.rows,
    record.path,
    hash(batch.root, "the batch's root"),
  );
  if (leaf.run !== payload.run || leaf.profile !== payload.profile_digest) {
    refuse("the record is of another run or another mapping than the event tells of");
  }
  if (record.content === null) {
    if (record.salt !== "") refuse("it has a salt for a record that it does not show");
    return false;
  }
  const said = canonical(object(record.content, "what the record says"));
  if (mac(hash(record.salt, "the record's salt"), said) !== leaf.commitment) {
    refuse("what the record is said to say is not what was committed to");
  }
  return true;
}

function checkRaw(raw, record, payload) {
  if (record.content === null || record.leaf.withdrawn !== false) {
    if (raw !== null) refuse("it names raw bytes for a record that cannot lead to them");
    return null;
  }
  const { digest, path } = members(raw, ["digest", "path"], "its raw bytes");
  if (!/^sha256:[0-9a-f]{64}$/.test(string(digest, "a digest"))) refuse("it does not name the raw bytes");
  const root = hash(payload.responses_root, "the root of the raw bytes");
  const { response, position } = record.content;
  included("the raw bytes are not those of the run", digest, response, payload.responses_count, path, root);
  return { digest, response, position: integer(position, "its position") };
}

function checkAttribution(given, record, payload, raw, told, trust) {
  const { header, index, path, registration } = members(
    given, ["header", "index", "path", "registration"], "its attribution");
  const { batch, leaf } = record;
  const text = Buffer.from(canonical(object(header, "its header")));
  same(sha256(text).toString("hex"), batch.header, "the header is not the batch's");
  same(header.domain, "holdfast-batch-header/v1", "the header is none");
  const registered = checkEntry(registration, told, trust.tenant);
  const stream = `worker/${string(header.worker, "the worker")}`;
  if (registration.leaf.type !== "worker.registered" || registration.leaf.stream !== stream) {
    refuse("its registration is none of the worker that signed");
  }
  for (const each of [registered.worker, payload.worker]) {
    same(each, header.worker, "the worker that signed is another than the event tells of");
  }
  if (!/^[0-9a-f]{128}$/.test(string(batch.signature, "the signature"))) refuse("the worker's signature is none");
  const key = ed25519Key(hash(registered.key, "the worker's key"));
  if (!ed25519(null, text, key, Buffer.from(batch.signature, "hex"))) {
    refuse("the worker's registered key has not signed the header");
  }
  const { fence, run, task, profile_digest: profile } = payload;
  for (const [name, value] of Object.entries({ fence, run, task, profile, sequence: batch.batch })) {
    same(header[name], value, `the worker signed for another ${name}`);
  }
  const posted = `holdfast-posted-leaf/v1\n${leaf.commitment}`;
  const reason = "the record is not among those that the worker signed";
  included(reason, posted, index, header.records, path, hash(header.root, "the worker's root"));
  const from = raw === null ? [] : [{ digest: raw.digest, response: raw.response }];
  const signedRaw = header.responses.map((each) => canonical(each));
  if (!from.every((each) => signedRaw.includes(canonical(each)))) refuse("the worker signed for other raw bytes");
  return registered.key;
}

function account(receipt, told, payload, shown, raw, key) {
  const { leaf, content } = receipt.record;
  const means = shown
    ? "this record, exactly as it stands here, was published by this run and is in the log that a key of the policy signed"
    : "there is such a record in the log that a key of the policy signed; what it says is sealed or erased, and not shown";
  return {
    tenant: receipt.entry.leaf.tenant,
    origin: told.origin,
    size: told.size,
    position: receipt.entry.index,
    recorded: receipt.entry.leaf.recorded,
    event: receipt.entry.leaf.id,
    profile: payload.profile,
    profile_digest: leaf.profile,
    run: leaf.run,
    worker: payload.worker,
    worker_key: key,
    record: leaf.record,
    revision: leaf.revision,
    withdrawn: leaf.withdrawn,
    content,
    raw_digest: raw === null ? "" : raw.digest,
    raw_response: raw === null ? null : raw.response,
    raw_position: raw === null ? null : raw.position,
    verdicts: [
      {
        verdict: "recorded",
        holds: true,
        means,
        does_not_mean:
          "that it is true, that it is the newest revision, or that the operator shows everybody the same log (compare checkpoints for that)",
      },
      attributed(key),
    ],
  };
}

function attributed(key) {
  if (key === null) {
    const means =
      "not shown: no worker signed this record (it was withdrawn, is of somebody who was erased, or from before workers signed); the worker named here is named by the operator";
    return { verdict: "attributed", holds: null, means, does_not_mean: "" };
  }
  return {
    verdict: "attributed",
    holds: true,
    means:
      "the key that this worker registered, on the record of the same log, signed that it made this record in this run, under this profile, from raw bytes with these digests",
    does_not_mean:
      "that the source said so, or that the operator did not register a key of its own under the worker's name (compare the key with the worker's own for that)",
  };
}

// --- the command ----------------------------------------------------------------------------------

function main(argv) {
  const rest = argv.filter((each) => each !== "--json");
  const at = rest.indexOf("--trust");
  const [trustFile] = at < 0 ? [] : rest.splice(at, 2).slice(1);
  if (rest.length !== 1 || trustFile === undefined) {
    process.stderr.write("usage: node verify.mjs RECEIPT --trust POLICY [--json]\n");
    return 2;
  }
  const json = rest.length !== argv.length - 2;
  try {
    const found = verify(readFileSync(rest[0]), decodeTrust(readFileSync(trustFile)));
    process.stdout.write(json ? `${JSON.stringify(found, null, 2)}\n` : readable(found));
    return 0;
  } catch (error) {
    process.stderr.write(`error: ${error.message}\n`);
    return error instanceof Refused ? 7 : 2;
  }
}

function readable(found) {
  const lines = found.verdicts.flatMap((each) => [
    `${each.verdict}: ${each.holds ? "yes" : "not shown"}`,
    `  ${each.means}`,
    ...(each.does_not_mean ? [`  It does not mean ${each.does_not_mean}.`] : []),
  ]);
  const { verdicts, ...fields } = found;
  const shown = Object.entries(fields).map(([name, value]) => `${name}: ${JSON.stringify(value)}`);
  return `${[...lines, "", ...shown].join("\n")}\n`;
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  process.exitCode = main(process.argv.slice(2));
}
