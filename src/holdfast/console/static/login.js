// The token is in the fragment, which the browser never sends; it is exchanged once for a cookie.
(async () => {
  onClick(document.getElementById("passkey"), async () => {
    const begun = await ask("/v1/login/passkey/options", {});
    const credential = await usePasskey(begun.options);
    await ask("/v1/login/passkey", { ceremony: begun.ceremony, credential });
    location.replace("/");
  });
  const token = location.hash.slice(1);
  if (!token) return;
  history.replaceState(null, "", location.pathname);
  const message = document.getElementById("message");
  message.textContent = "Signing in …";
  try {
    await ask("/v1/login", { token });
    location.replace("/");
  } catch (error) {
    message.textContent = error.message;
  }
})();
