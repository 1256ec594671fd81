// The secret is in the fragment, which the browser never sends.
(async () => {
  const secret = location.hash.slice(1);
  const message = document.getElementById("message");
  if (!secret) {
    message.textContent = "This page is opened by the link of an invitation.";
    return;
  }
  history.replaceState(null, "", location.pathname);
  try {
    const seen = await ask("/v1/login/invitation", { secret });
    document.getElementById("name").textContent = seen.name;
    document.getElementById("roles").textContent = seen.roles.join(", ");
    document.getElementById("until").textContent = seen.expires_at.slice(0, 16).replace("T", " ");
    message.textContent = seen.recovery
      ? "Make a new passkey; it lets you in again."
      : "Make a passkey on this device. It is your key: there is no password.";
    document.getElementById("invited").hidden = false;
  } catch (error) {
    message.textContent = error.message;
    message.classList.add("problem");
    return;
  }
  onClick(document.getElementById("accept"), async () => {
    const begun = await ask("/v1/login/invitation/options", { secret });
    const credential = await makePasskey(begun.options);
    const name = document.getElementById("device").value;
    await ask("/v1/login/invitation/passkey", { ceremony: begun.ceremony, credential, name });
    location.replace("/account");
  });
  for (const link of document.querySelectorAll("[data-provider]")) {
    onClick(link, async () => {
      const begun = await ask("/v1/login/oauth", { provider: link.dataset.provider, invitation: secret });
      location.assign(begun.url);
    });
  }
})();
