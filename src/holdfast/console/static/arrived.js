// The session's cookie is strict: a page that another site led to does not have it, the next one does.
location.replace("/");
