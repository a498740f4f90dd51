// Shows the document; fills in what the address has after "#", which browsers do not send:
// #key=…&token=…&database=… (the demo prints such an address). What was given, or sent last, is
// kept over a reload, and forgotten when the tab is closed. A link from somebody else must not
// replace it unnoticed: records would be sent with other credentials, or to another database.
const NAMES = ["key", "token", "database"];
const keep = (name, value) => value && sessionStorage.setItem(name, value);
const kept = (name) => sessionStorage.getItem(name);

const link = new URLSearchParams(location.hash.slice(1));
history.replaceState(null, "", location.pathname);
const isOther = NAMES.some((name) => link.get(name) && link.get(name) !== kept(name));
const question = "This tab has other credentials or another database. Use those of the link?";
if (isOther && (!NAMES.some(kept) || confirm(question))) {
  NAMES.forEach((name) => keep(name, link.get(name)));
}

fetch("openapi.json")
  .then((response) => response.json())
  .then((spec) => {
    for (const operation of Object.values(spec.paths).flatMap(Object.values)) {
      for (const parameter of operation.parameters ?? []) {
        if (parameter.name === "vbasoftware-database") {
          parameter.example = kept("database") ?? parameter.example;
        }
      }
    }
    const page = SwaggerUIBundle({
      spec,
      dom_id: "#page",
      presets: [SwaggerUIBundle.presets.apis],
      defaultModelsExpandDepth: 0,
      docExpansion: "list",
      tryItOutEnabled: true,
      syntaxHighlight: { activated: false },
      validatorUrl: null,
      requestInterceptor: (request) => {
        keep("key", request.headers["x-api-key"]);
        keep("token", request.headers.Authorization?.replace("Bearer ", ""));
        keep("database", request.headers["vbasoftware-database"]);
        return request;
      },
      // The answer stands below the example: bring it into view.
      responseInterceptor: (response) => {
        const operation = document.activeElement?.closest(".opblock") ?? document;
        const show = () => operation.querySelector(".live-responses-table")?.scrollIntoView();
        setTimeout(show, 100);
        return response;
      },
      onComplete: () => {
        // The batch alone stands open.
        const [{ tags, operationId }] = Object.values(Object.values(spec.paths)[0]);
        page.layoutActions.show(["operations", tags[0], operationId], true);
        for (const [scheme, name] of [["apiKeyAuth", "key"], ["bearerAuth", "token"]]) {
          if (kept(name)) {
            page.preauthorizeApiKey(scheme, kept(name));
          }
        }
      },
    });
  });
