// Shows the document and fills in the values after "#" in the address, which browsers do not send:
// #key=…&token=…&database=… (the demo prints such an address). The values that were given or sent
// last survive a reload until the tab is closed. A link from somebody else must not replace them
// unnoticed: records would be sent with other credentials, or to another database.
const NAMES = ["key", "token", "database"];
const save = (name, value) => value && sessionStorage.setItem(name, value);
const load = (name) => sessionStorage.getItem(name);

const link = new URLSearchParams(location.hash.slice(1));
history.replaceState(null, "", location.pathname);
const isDifferent = NAMES.some((name) => link.get(name) && link.get(name) !== load(name));
const question = "This tab has other credentials or another database. Use those of the link?";
if (isDifferent && (!NAMES.some(load) || confirm(question))) {
  NAMES.forEach((name) => save(name, link.get(name)));
}

fetch("openapi.json")
  .then((response) => response.json())
  .then((spec) => {
    for (const operation of Object.values(spec.paths).flatMap(Object.values)) {
      for (const parameter of operation.parameters ?? []) {
        if (parameter.name === "vbasoftware-database") {
          parameter.example = load("database") ?? parameter.example;
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
        save("key", request.headers["x-api-key"]);
        save("token", request.headers.Authorization?.replace("Bearer ", ""));
        save("database", request.headers["vbasoftware-database"]);
        return request;
      },
      // The response appears below the example; scroll to it.
      responseInterceptor: (response) => {
        const operation = document.activeElement?.closest(".opblock") ?? document;
        const show = () => operation.querySelector(".live-responses-table")?.scrollIntoView();
        setTimeout(show, 100);
        return response;
      },
      onComplete: () => {
        // Expand only the batch.
        const [{ tags, operationId }] = Object.values(Object.values(spec.paths)[0]);
        page.layoutActions.show(["operations", tags[0], operationId], true);
        for (const [scheme, name] of [["apiKeyAuth", "key"], ["bearerAuth", "token"]]) {
          if (load(name)) {
            page.preauthorizeApiKey(scheme, load(name));
          }
        }
      },
    });
  });
