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
const CELL_FORMAT = "holdfast-cell-receipt/v1";
const CARRIED_MAX = 200; // so many records a cell's receipt carries, and must
const RECEIPT_BYTES_MAX = 16 * 1024 * 1024;
const DEPTH_MAX = 64;

/** The receipt does not hold; the policy file cannot be used. */
export class Refused extends Error {}
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
  const whole = Number.isSafeInteger(value) && !Object.is(value, -0);
  if (typeof value === "number") return String(guard(whole, value, "a number in it is no integer"));
  if (Array.isArray(value)) return `[${value.map((each) => canonical(each, depth + 1)).join(",")}]`;
  if (typeof value !== "object") refuse("something in it has no canonical form");
  // The default order of texts is that of their UTF-16 code units, as RFC 8785 wants it.
  const members = Object.keys(value).sort();
  return `{${members.map((name) => `${text(name)}:${canonical(value[name], depth + 1)}`).join(",")}}`;
}

const text = (value) => JSON.stringify(guard(value.isWellFormed(), value, "a text in it holds a lone surrogate"));

/** Plain data from bytes that must be canonical already. */
export function decodeCanonical(bytes) {
  const said = utf8(bytes);
  const plain = attempt(() => JSON.parse(said), "it is not JSON");
  // Repeated members, other spellings of numbers and texts, spaces: all give other bytes.
  return guard(canonical(plain) === said, plain, "it is not in its canonical form");
}

const utf8 = (bytes) =>
  attempt(() => new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes), "it is not UTF-8");

function attempt(make, what) {
  try {
    return make();
  } catch {
    return refuse(what);
  }
}

// --- shapes ---------------------------------------------------------------------------------------

function members(value, names, what) {
  const found = Object.keys(object(value, what)).sort().join(" ");
  return guard(found === [...names].sort().join(" "), value, `${what} has other members than it must have`);
}

function guard(fits, value, what) {
  return fits ? value : refuse(what);
}

const same = (value, expected, what) => guard(value === expected, value, what);
const string = (value, what) => guard(typeof value === "string", value, `${what} is no text`);
const integer = (value, what) => guard(Number.isSafeInteger(value) && value >= 0, value, `${what} is no number`);
const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const object = (value, what) => guard(isObject(value), value, `${what} is none`);
const hash = (value, what) =>
  Buffer.from(guard(/^[0-9a-f]{64}$/.test(string(value, what)), value, `${what} is no hash`), "hex");

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
  return guard(data.toString("base64") === said, data, `${what} is not base64`);
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
  const valid = told.size >= known.from && told.size <= (known.to ?? Infinity);
  return guard(valid, told, `its checkpoint has the size ${told.size}; its key is valid from ${known.from} to ${known.to ?? "now"}`);
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
  const plain = decodeFile(bytes);
  return plain?.format === CELL_FORMAT ? verifyCell(plain, trust) : verifyRecord(plain, trust);
}

function verifyRecord(plain, trust) {
  const receipt = checkShape(plain);
  const told = signed(receipt.checkpoint, trust);
  const payload = checkEntry(receipt.entry, told, trust.tenant);
  isFrom(receipt.entry, "records.ingested", `profile/${payload.profile}`, "its event is none that tells of published records");
  const shown = checkRecord(receipt.record, payload);
  const raw = checkRaw(receipt.raw, receipt.record, payload);
  const bySigner = receipt.record.leaf.domain === "holdfast-record-leaf/v2";
  if (bySigner !== (receipt.attribution !== null)) refuse("whether its worker signed the record is told in two ways");
  const key = bySigner ? checkAttribution(receipt.attribution, receipt.record, payload, raw, told, trust) : null;
  return account(receipt, told, payload, shown, raw, key);
}

function decodeFile(bytes) {
  if (bytes.length > RECEIPT_BYTES_MAX) refuse(`it has more than ${RECEIPT_BYTES_MAX} bytes`);
  const tail = /^,"sha256":"([0-9a-f]{64})"\}\n$/.exec(bytes.subarray(-78).toString("latin1"));
  if (tail === null) refuse("it does not end in its SHA-256: it was cut off, or is no receipt");
  const body = Buffer.concat([bytes.subarray(0, -78), Buffer.from("}")]);
  if (sha256(body).toString("hex") !== tail[1]) refuse("its SHA-256 is another");
  return decodeCanonical(body);
}

function checkShape(plain) {
  const receipt = members(plain, ["attribution", "checkpoint", "entry", "format", "raw", "record"], "the receipt");
  if (![FORMAT, SIGNED_FORMAT].includes(receipt.format)) refuse("its format is not known here");
  const together = (receipt.attribution === null) === (receipt.format === FORMAT);
  return guard(together, receipt, "its format and its attribution do not go together");
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

// Only Holdfast's own roles append to streams of profiles, workers and reports.
function isFrom({ leaf }, type, stream, what) {
  if (leaf.type !== type || leaf.stream !== stream) refuse(what);
}

function checkRecord(given, payload) {
  const names = ["batch", "batch_index", "batch_path", "content", "index", "leaf", "path", "salt"];
  const record = members(given, names, "its record");
  const more = { "holdfast-batch-leaf/v1": [], "holdfast-batch-leaf/v2": ["header", "signature"] };
  const domain = object(record.batch, "its batch").domain;
  if (!Object.hasOwn(more, domain)) refuse("its batch is none");
  const batch = members(record.batch, ["batch", "domain", "kind", "root", "rows", ...more[domain]], "its batch");
  const [outside, root] = ["the batch is not in the run that the event tells of", hash(payload.root, "the run's root")];
  included(outside, canonical(batch), record.batch_index, payload.batches_count, record.batch_path, root);
  const fields = ["commitment", "domain", "profile", "record", "revision", "run", "withdrawn"];
  const leaf = members(record.leaf, fields, "the record's leaf");
  if (!/^holdfast-record-leaf\/v[12]$/.test(string(leaf.domain, "a domain"))) refuse("its record's leaf is none");
  included("the record is not in the batch", canonical(leaf), record.index, batch.rows, record.path, hash(batch.root, "a root"));
  const from = leaf.run === payload.run && leaf.profile === payload.profile_digest;
  guard(from, leaf, "the record is of another run or another mapping than the event tells of");
  if (record.content === null) return guard(record.salt === "", false, "it has a salt for a record that it does not show");
  const said = canonical(object(record.content, "what the record says"));
  const told = mac(hash(record.salt, "the record's salt"), said);
  return guard(told === leaf.commitment, true, "what the record is said to say is not what was committed to");
}

function checkRaw(raw, record, payload) {
  const hidden = record.content === null || record.leaf.withdrawn !== false;
  if (hidden) return same(raw, null, "it names raw bytes for a record that cannot lead to them");
  const { digest, path } = members(raw, ["digest", "path"], "its raw bytes");
  if (!/^sha256:[0-9a-f]{64}$/.test(string(digest, "a digest"))) refuse("it does not name the raw bytes");
  const root = hash(payload.responses_root, "the root of the raw bytes");
  const { response, position } = record.content;
  included("the raw bytes are not those of the run", digest, response, payload.responses_count, path, root);
  return { digest, response, position: integer(position, "its position") };
}

function checkAttribution(given, record, payload, raw, told, trust) {
  const { header, index, path, registration } = members(given, ["header", "index", "path", "registration"], "its attribution");
  const { batch, leaf } = record;
  const text = Buffer.from(canonical(object(header, "its header")));
  same(sha256(text).toString("hex"), batch.header, "the header is not the batch's");
  same(header.domain, "holdfast-batch-header/v1", "the header is none");
  const registered = checkEntry(registration, told, trust.tenant);
  const stream = `worker/${string(header.worker, "the worker")}`;
  isFrom(registration, "worker.registered", stream, "its registration is none of the worker that signed");
  const other = "the worker that signed is another than the event tells of";
  for (const each of [registered.worker, payload.worker]) same(each, header.worker, other);
  if (!/^[0-9a-f]{128}$/.test(string(batch.signature, "the signature"))) refuse("the worker's signature is none");
  const key = ed25519Key(hash(registered.key, "the worker's key"));
  const made = ed25519(null, text, key, Buffer.from(batch.signature, "hex"));
  same(made, true, "the worker's registered key has not signed the header");
  const { fence, run, task, profile_digest: profile } = payload;
  for (const [name, value] of Object.entries({ fence, run, task, profile, sequence: batch.batch })) {
    same(header[name], value, `the worker signed for another ${name}`);
  }
  const posted = `holdfast-posted-leaf/v1\n${leaf.commitment}`;
  const reason = "the record is not among those that the worker signed";
  included(reason, posted, index, header.records, path, hash(header.root, "the worker's root"));
  const own = (each) => each.digest === raw.digest && each.response === raw.response;
  return guard(raw === null || header.responses.some(own), registered.key, "the worker signed for other raw bytes");
}

function account(receipt, told, payload, shown, raw, key) {
  const { leaf, content } = receipt.record;
  const { tenant, recorded, id: event } = receipt.entry.leaf;
  const { profile, publication, worker } = payload;
  const { run, record, revision, withdrawn, profile: profile_digest } = leaf;
  const means = shown
    ? "this record, exactly as it stands here, was published by this run and is in the log that a key of the policy signed"
    : "there is such a record in the log that a key of the policy signed; what it says is sealed or erased, and not shown";
  const not =
    "that it is true, that it is the newest revision, or that the operator shows everybody the same log (compare checkpoints for that)";
  return {
    tenant, origin: told.origin, size: told.size, position: receipt.entry.index, recorded, event, profile,
    profile_digest, publication, run, worker, worker_key: key, record, revision, withdrawn, content,
    raw_digest: raw?.digest ?? "", raw_response: raw?.response ?? null, raw_position: raw?.position ?? null,
    verdicts: [verdict("recorded", true, means, not), attributed(key)],
  };
}

function verdict(name, holds, means, not = "") {
  return { verdict: name, holds, means, does_not_mean: not };
}

function attributed(key) {
  const no =
    "not shown: no worker signed this record (it was withdrawn, is of somebody who was erased, or from before workers signed); the worker named here is named by the operator";
  if (key === null) return verdict("attributed", null, no);
  const means =
    "the key that this worker registered, on the record of the same log, signed that it made this record in this run, under this profile, from raw bytes with these digests";
  const not =
    "that the source said so, or that the operator did not register a key of its own under the worker's name (compare the key with the worker's own for that)";
  return verdict("attributed", true, means, not);
}

// --- cells of reports -----------------------------------------------------------------------------

function rootOver(leaves) {
  if (leaves.length < 2) return leaves.length === 0 ? sha256("") : leafHash(leaves[0]);
  let split = 1;
  while (split * 2 < leaves.length) split *= 2;
  return sha256(Buffer.of(1), rootOver(leaves.slice(0, split)), rootOver(leaves.slice(split)));
}

function verifyCell(plain, trust) {
  const receipt = members(plain, ["cell", "checkpoint", "entry", "format", "inputs", "output", "records", "spec"], "the receipt");
  const told = signed(receipt.checkpoint, trust);
  const payload = checkEntry(receipt.entry, told, trust.tenant);
  const { leaf: entry, index: position } = receipt.entry;
  isFrom(receipt.entry, "report.computed", `report/${payload.report}`, "its event is none that tells of a computed report");
  const digest = `sha256:${sha256(canonical(object(receipt.spec, "its spec"))).toString("hex")}`;
  same(digest, payload.spec_digest, "the spec is another than the report was computed from");
  checkInputs(receipt, payload);
  const cell = checkCell(receipt, payload);
  const { counts, carried } = checkBehind(receipt, trust);
  const { report, name, spec_digest, computation } = payload;
  return {
    tenant: entry.tenant, origin: told.origin, size: told.size, position, recorded: entry.recorded,
    event: entry.id, report, name, spec_digest, computation, inputs: receipt.inputs, ...cell,
    records: counts, carried: carried === null ? null : carried.length,
    verdicts: [cellRecorded(), cellAttributed(carried)],
  };
}

function checkInputs({ inputs, spec }, payload) {
  if (!Array.isArray(inputs)) refuse("its inputs are none");
  const fields = ["as_of", "digest", "name", "profile", "publication", "vintage"];
  const names = inputs.map((used) => string(members(used, fields, "an input").name, "a name"));
  same(canonical(names), canonical([...new Set(names)].sort()), "its inputs are none");
  same(canonical(names), canonical(Object.keys(object(spec.inputs, "inputs")).sort()), "its inputs are others than the spec names");
  const root = rootOver(inputs.map((used) => canonical(used))).toString("hex");
  same(root, payload.inputs_root, "its inputs are others than the event tells of");
}

function checkCell({ cell, output }, payload) {
  const { column, row, value } = members(cell, ["column", "row", "value"], "its cell");
  const { index, leaf, path } = members(output, ["index", "leaf", "path"], "its row");
  const reason = "the row is not among the outputs that the event tells of";
  included(reason, canonical(object(leaf, "its row")), index, payload.outputs_count, path, hash(payload.outputs_root, "a root"));
  const table = payload.kind === "table";
  members(leaf, table ? ["cells", "records", "row"] : ["correlation", "records"], "its row");
  if (table && (leaf.row !== index || row !== index)) refuse("the cell is of another row");
  if (!table && row !== null) refuse("its coefficients are none");
  const at = table ? ["cells", payload.columns.indexOf(string(column, "a column"))] : ["correlation", ...string(column, "a path").split(".")];
  let found = leaf;
  for (const name of at) {
    const inside = found !== null && typeof found === "object" && Object.keys(found).includes(String(name));
    if (!inside) refuse("there is no such cell");
    found = found[name];
  }
  if (found !== null && typeof found === "object") refuse("there is no such cell");
  same(value, found, "the cell says something else than the report");
  return { column, row, value };
}

function checkBehind(receipt, trust) {
  const told = object(receipt.output.leaf.records, "its records");
  const names = receipt.inputs.map((used) => used.name);
  members(told, names, "its records");
  const parts = names.map((name) => told[name] && members(told[name], ["count", "root"], "its records"));
  const counts = Object.fromEntries(names.map((name, at) => [name, parts[at] && integer(parts[at].count, "a count")]));
  const sum = Object.values(counts).reduce((total, count) => total + (count ?? Infinity), 0);
  if ((receipt.records !== null) !== sum <= CARRIED_MAX) refuse("it does not carry the records that it must, or carries too many");
  if (receipt.records === null) return { counts, carried: null };
  members(receipt.records, names, "its records");
  const carried = receipt.inputs.flatMap((used, at) => {
    if (!Array.isArray(receipt.records[used.name])) refuse("its records are none");
    const found = receipt.records[used.name].map((one) => verifyRecord(one, trust));
    const root = rootOver(found.map((one) => `${one.record}@${one.revision}`)).toString("hex");
    if (found.length !== parts[at].count || root !== parts[at].root) refuse("its records are others than the row was made of");
    for (const one of found) {
      if (one.profile !== used.profile || one.publication > used.publication) refuse("a record in it is of another profile or a later publication");
      if (one.withdrawn) refuse("a record in it is withdrawn");
    }
    return found;
  });
  return { counts, carried };
}

function cellRecorded() {
  const means =
    "this cell stands in the report that this event tells of, with exactly this spec, these inputs and these records, in the log that a key of the policy signed";
  const not =
    "that it was computed correctly (recompute it for that), or that the operator shows everybody the same log";
  return verdict("recorded", true, means, not);
}

function cellAttributed(carried) {
  const by = (carried ?? []).filter((one) => one.worker_key !== null).length;
  const no = carried === null
    ? `not shown: more than ${CARRIED_MAX} records are behind the cell, and the receipt does not carry them; ask for the receipts of records`
    : `not shown: of ${carried.length} records behind the cell workers signed ${by}`;
  if (carried === null || by < carried.length || by === 0) return verdict("attributed", null, no);
  const means =
    "each record behind the cell is in the same log, and was signed by the worker that made it with the key that this worker registered there";
  const not = "that a source said so, or that the operator did not register a key of its own under a worker's name";
  return verdict("attributed", true, means, not);
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
