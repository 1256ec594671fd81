// The token is in the fragment, which the browser never sends; it is exchanged once for a cookie.
(async () => {
  const token = location.hash.slice(1);
  if (!token) return;
  history.replaceState(null, "", location.pathname);
  const message = document.getElementById("message");
  message.textContent = "Signing in …";
  const answer = await fetch("/v1/login", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ token }),
  });
  if (answer.ok) {
    location.replace("/");
    return;
  }
  const problem = await answer.json().catch(() => ({}));
  message.textContent = problem.detail || "That did not work.";
})();
