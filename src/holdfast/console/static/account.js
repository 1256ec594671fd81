// One's own passkeys and sessions, and for those who may, people.
onClick(document.getElementById("add-passkey"), async () => {
  const begun = await ask("/v1/login/passkeys/options", {});
  const credential = await makePasskey(begun.options);
  const name = document.getElementById("device").value;
  await ask("/v1/login/passkeys", { ceremony: begun.ceremony, credential, name });
  location.reload();
});
for (const button of document.querySelectorAll("[data-post]")) {
  onClick(button, async () => {
    await ask(button.dataset.post, {});
    location.reload();
  });
}
onClick(document.getElementById("invite"), async () => {
  const value = (id) => document.getElementById(id).value.trim();
  const made = await ask("/v1/invitations", {
    name: value("invite-name"), email: value("invite-email"), roles: [value("invite-role")],
  });
  showLink(made.secret);
});
for (const button of document.querySelectorAll("[data-recover]")) {
  const stolen = "stolen" in button.dataset;
  onClick(button, async () => {
    if (stolen && !confirm("End every passkey and session of theirs?")) return;
    showLink((await ask(button.dataset.recover, { end_passkeys: stolen })).secret);
  });
}
function showLink(secret) {
  const place = document.getElementById("link");
  place.textContent = `${location.origin}/invitation#${secret}`;
  document.getElementById("made").hidden = false;
  getSelection().selectAllChildren(place);
}
