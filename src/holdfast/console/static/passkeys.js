// Passkeys: the browser speaks in buffers, the wire in base64url. No library, no build step.
const bytes = (text) =>
  Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
const text = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer)))
    .replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
const csrf = () => document.querySelector('meta[name="csrf"]')?.content || "";

async function ask(path, body, method = "POST") {
  const answer = await fetch(path, {
    method,
    headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf() },
    body: JSON.stringify(body),
  });
  const found = answer.status === 204 ? {} : await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error([found.detail, found.hint].filter(Boolean).join(" — ") || "That did not work.");
  return found;
}

const listed = (credentials) => (credentials || []).map((c) => ({ ...c, id: bytes(c.id) }));

async function makePasskey(options) {
  const made = await navigator.credentials.create({
    publicKey: {
      ...options,
      challenge: bytes(options.challenge),
      user: { ...options.user, id: bytes(options.user.id) },
      excludeCredentials: listed(options.excludeCredentials),
    },
  });
  return {
    id: made.id, rawId: text(made.rawId), type: made.type,
    response: {
      clientDataJSON: text(made.response.clientDataJSON),
      attestationObject: text(made.response.attestationObject),
    },
  };
}

async function usePasskey(options) {
  const used = await navigator.credentials.get({
    publicKey: {
      ...options,
      challenge: bytes(options.challenge),
      allowCredentials: listed(options.allowCredentials),
    },
  });
  return {
    id: used.id, rawId: text(used.rawId), type: used.type,
    response: {
      clientDataJSON: text(used.response.clientDataJSON),
      authenticatorData: text(used.response.authenticatorData),
      signature: text(used.response.signature),
      userHandle: used.response.userHandle ? text(used.response.userHandle) : null,
    },
  };
}

// Runs what a button asks for, once at a time, and says how it went.
function onClick(element, work) {
  const message = document.getElementById("message");
  element?.addEventListener("click", async () => {
    element.disabled = true;
    message?.classList.remove("problem");
    try {
      await work(element);
    } catch (error) {
      if (message) {
        const plain = error.name === "NotAllowedError" ? "The browser was not allowed to, or it took too long." : error.message;
        message.textContent = plain;
        message.classList.add("problem");
      }
    } finally {
      element.disabled = false;
    }
  });
}
