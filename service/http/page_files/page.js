// Shows the document; fills in what the address has after "#", which browsers do not send:
// #key=…&token=…&database=… (the demo prints such an address).
const given = new URLSearchParams(location.hash.slice(1));
history.replaceState(null, "", location.pathname);

fetch("openapi.json")
  .then((response) => response.json())
  .then((spec) => {
    if (given.has("database")) {
      for (const parameter of spec.paths[Object.keys(spec.paths)[0]].put.parameters) {
        if (parameter.name === "vbasoftware-database") {
          parameter.example = given.get("database");
        }
      }
    }
    const page = SwaggerUIBundle({
      spec,
      dom_id: "#page",
      presets: [SwaggerUIBundle.presets.apis],
      defaultModelsExpandDepth: 0,
      docExpansion: "full",
      tryItOutEnabled: true,
      syntaxHighlight: { activated: false },
      validatorUrl: null,
      onComplete: () => {
        if (given.has("key")) {
          page.preauthorizeApiKey("apiKeyAuth", given.get("key"));
        }
        if (given.has("token")) {
          page.preauthorizeApiKey("bearerAuth", given.get("token"));
        }
      },
    });
  });
