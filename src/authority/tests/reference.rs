//! Pages that are written from the code: `docs/CONFIG.md` from the comments of the configuration, `docs/openapi.json` from the table of
//! routes and the shapes of the API. Run with `UPDATE_DOCS=1` to write them; without it a difference is a failure.
#[cfg(test)]
mod shapes;

use std::path::PathBuf;

use countersign_authority::api::routes::{Answer, Method, Needs, ROUTES, Side};
use countersign_authority::config::{Admin, Limits, Service};
use countersign_core::leaf::control::Role;
use countersign_core::refusal::RefusalCode;
use serde_json::{Map, Value, json};
use shapes::{Item, Shape, shapes};

#[cfg(test)]
fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

#[cfg(test)]
fn source(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap()
}

#[cfg(test)]
#[track_caller]
fn compare(name: &str, wanted: &str) {
    let path = repository().join("docs").join(name);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, wanted).unwrap();
        return;
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "docs/{name} isn't what the code says: run this test with UPDATE_DOCS=1");
}

#[cfg(test)]
fn defaults() -> toml::Table {
    toml::Table::try_from(Limits::default()).unwrap()
}

#[cfg(test)]
fn section(page: &mut String, title: &str, shape: &Shape, defaults: &toml::Table) {
    page.push_str(&format!("\n## {title}\n\n"));
    page.push_str("| Key | Default | Meaning |\n|---|---|---|\n");
    for field in &shape.fields {
        let default = match defaults.get(&field.name) {
            Some(value) => format!("{value}"),
            None if field.kind.starts_with("Option<") => "none".to_owned(),
            None if field.attributes.contains("default") => "see there".to_owned(),
            None => "required".to_owned(),
        };
        page.push_str(&format!("| `{}` | {default} | {} |\n", field.name, field.doc));
    }
}

/// Where the configuration's shapes are.
#[cfg(test)]
const PARTS: [&str; 6] = [
    "config.rs",
    "config/store.rs",
    "config/counter.rs",
    "config/retention.rs",
    "config/signer.rs",
    "config/witnesses.rs",
];

#[test]
fn the_configuration_page_says_what_the_code_says() {
    let text: String = PARTS.iter().map(|part| source(&format!("src/authority/src/{part}"))).collect();
    let items = shapes(&text);
    let find = |name: &str| {
        items
            .iter()
            .find_map(|item| match item {
                Item::Struct(shape) if shape.name == name => Some(shape),
                _ => None,
            })
            .unwrap()
    };
    let variants = |name: &str| {
        items
            .iter()
            .find_map(|item| match item {
                Item::Enum { name: found, variants, .. } if found == name => Some(variants),
                _ => None,
            })
            .unwrap()
    };
    let none = toml::Table::new();
    let mut page = "# Configuration\n\nWritten from the comments in the code. A key that isn't listed here is an error. No secret stands in these files: PINs \
        and keys are in files of their own. Samples are in `deploy/config`.\n\n# The authority: `authority.toml`\n\n`countersign authority init` writes it, in \
        `/var/lib/countersign` by default. Errors name file, line and key. Relative paths are taken from the file's directory.\n".to_owned();
    section(&mut page, "Top level", find("Config"), &none);
    let service = toml::Table::try_from(Service::default()).unwrap();
    section(&mut page, "`[service]`", find("Service"), &service);
    let admin = toml::Table::try_from(Admin::default()).unwrap();
    section(&mut page, "`[admin]`", find("Admin"), &admin);
    for variant in variants("Store") {
        section(&mut page, &format!("`[store]`: {}", variant.doc), variant, &none);
    }
    let least = "host = ''\ndatabase = ''\nuser = ''";
    let postgres: countersign_authority::config::Postgres = toml::from_str(least).unwrap();
    let mut postgres = toml::Table::try_from(postgres).unwrap();
    for required in ["host", "database", "user"] {
        postgres.remove(required);
    }
    section(&mut page, &find("Postgres").doc, find("Postgres"), &postgres);
    let labels: toml::Table = [
        ("head_key".to_owned(), toml::Value::from("countersign-head")),
        ("ca_key".to_owned(), toml::Value::from("countersign-ca")),
        ("jwt_key".to_owned(), toml::Value::from("countersign-jwt")),
        ("delay_ms".to_owned(), toml::Value::from(0)),
    ]
    .into_iter()
    .collect();
    for variant in variants("Signer") {
        section(&mut page, &format!("`[signer]`: {}", variant.doc), variant, &labels);
    }
    let nv_index = i64::from(countersign_authority::config::RollbackCounter::NV_INDEX);
    let nv_index = [("nv_index".to_owned(), toml::Value::from(nv_index))].into_iter().collect();
    let counter = find("RollbackCounter");
    section(&mut page, &counter.doc, counter, &nv_index);
    let enrolment = toml::Table::try_from(countersign_authority::config::Enrolment::default()).unwrap();
    section(&mut page, "`[enrolment]`", find("Enrolment"), &enrolment);
    let witnesses = toml::Table::try_from(countersign_authority::config::Witnesses::default()).unwrap();
    section(&mut page, "`[witnesses]`", find("Witnesses"), &witnesses);
    section(&mut page, "`[retention]`", find("Retention"), &toml::Table::new());
    section(&mut page, "`[limits]`", find("Limits"), &defaults());
    other_files(&mut page);
    environment(&mut page);
    compare("CONFIG.md", &page);
}

/// Titles of a file's sections, and the types that they are written from.
type Sections = &'static [(&'static str, &'static str)];

/// The other programs' files: where each is described, what it is, its sections.
const OTHER_FILES: &[(&str, &str, Sections)] = &[
    (
        "src/agent/src/config.rs",
        "# A host's agent: `agent.toml`\n\nIn `/etc/countersign` by default. The agent's user must be able to read it.",
        &[
            ("Top level", "ConfigFile"),
            ("`[iak]`", "IakFile"),
            ("`[idevid]`", "IdevidFile"),
            ("`[[runtime]]`", "RuleFile"),
        ],
    ),
    (
        "src/gateway/src/config.rs",
        "# A gateway: `gateway.toml`\n\nIn `/etc/countersign` by default. It is read by whoever runs programs through `countersign exec`.",
        &[("Top level", "Document"), ("`[authority]`", "AuthorityConfig"), ("`[exec]`", "ExecDocument")],
    ),
    (
        "src/witness/src/config.rs",
        "# A witness: `witness.toml`\n\n`countersign witness init` writes it.",
        &[
            ("Top level", "Document"),
            ("`[key]`", "KeyPlace"),
            ("`[tls]`", "Tls"),
            ("`[[log]]`", "LogDocument"),
            ("`[limits]`", "Limits"),
        ],
    ),
    (
        "src/cli/src/profile.rs",
        "# An operator: the admin profile\n\n`countersign authority init` writes the first one as `admin.toml`, `countersign admin operator` each \
            other as `<name>.toml`. `countersign admin` takes it from `--profile` or `COUNTERSIGN_PROFILE`, else from `admin.toml` in the current \
            directory. Relative paths are taken from the file's directory, so that the files can be moved together.",
        &[("All keys", "Profile")],
    ),
];

#[cfg(test)]
fn other_files(page: &mut String) {
    for (path, head, sections) in OTHER_FILES {
        let text = source(path);
        let items = shapes(&text);
        page.push_str(&format!("\n{head}\n"));
        for (title, wanted) in *sections {
            let mut found = false;
            for item in &items {
                match item {
                    Item::Struct(shape) if shape.name == *wanted => {
                        section(page, title, shape, &written_defaults(&text, shape));
                        found = true;
                    }
                    Item::Enum { name, variants, .. } if name == wanted => {
                        for variant in variants {
                            section(page, &format!("{title}: {}", variant.doc), variant, &toml::Table::new());
                        }
                        found = true;
                    }
                    _ => {}
                }
            }
            assert!(found, "{path} has no {wanted}");
        }
    }
}

/// Defaults as they stand in the source: what a function named by serde returns, what `Default` says, and what a type is without a value.
#[cfg(test)]
fn written_defaults(text: &str, shape: &Shape) -> toml::Table {
    let of_struct = text.split(&format!("impl Default for {} {{", shape.name)).nth(1);
    let of_struct = of_struct.and_then(|rest| rest.split("\n}\n").next()).unwrap_or_default();
    let value = |written: &str| {
        let plain =
            written.trim().trim_end_matches(".into()").trim_end_matches(".to_owned()").replace('_', "");
        let table: toml::Table = toml::from_str(&format!("value = {plain}")).ok()?;
        // Underscores are for numbers only.
        let exact = || written.trim().split('"').nth(1).map(|text| toml::Value::from(text.to_owned()));
        exact().or_else(|| table.get("value").cloned())
    };
    let default = |field: &shapes::Field| {
        if let Some(name) =
            field.attributes.split("default = \"").nth(1).and_then(|rest| rest.split('"').next())
        {
            let body = text.split(&format!("fn {name}() -> ")).nth(1)?.split("{\n").nth(1)?;
            return value(body.lines().next()?);
        }
        if let Some(rest) = of_struct.split(&format!(" {}: ", field.name)).nth(1) {
            return value(rest.split([',', '}']).next()?);
        }
        match field.kind.as_str() {
            _ if !field.attributes.contains("default") => None,
            "bool" => Some(false.into()),
            kind if kind.starts_with("Vec<")
                && field.kind != "Vec<RuleFile>"
                && field.kind != "Vec<LogDocument>" =>
            {
                Some(toml::Value::Array(Vec::new()))
            }
            _ => None,
        }
    };
    shape.fields.iter().filter_map(|field| Some((field.name.clone(), default(field)?))).collect()
}

/// Variables that the program reads, or that its libraries do. Those of its own are compared with the source.
const VARIABLES: &[(&str, &str)] = &[
    (
        "COUNTERSIGN_PROFILE",
        "Admin profile of `countersign admin` and `countersign audit tail`, in the place of `--profile`.",
    ),
    (
        "COUNTERSIGN_AGENT",
        "Socket of the host's agent for `countersign artifact request` and `countersign agent status`, in the place of `--agent`.",
    ),
    (
        "COUNTERSIGN_TOKEN",
        "Join token for `countersign agent enrol`, in the place of `--token`: other users can't see it in the list of processes.",
    ),
    (
        "RUST_LOG",
        "What is logged to standard error: `warn`, `info`, `debug`, or by module (`tracing-subscriber`'s directives). Daemons log `info` in JSON, \
            `countersign exec` logs `warn` in plain lines.",
    ),
    (
        "SOFTHSM2_CONF",
        "SoftHSM's own: its configuration, which says where tokens are. Other PKCS#11 modules have theirs.",
    ),
    ("TSS2_LOG", "The TPM software stack's own: `all+none` keeps it from writing to standard error."),
];

#[cfg(test)]
fn environment(page: &mut String) {
    page.push_str("\n# Environment\n\n| Variable | Meaning |\n|---|---|\n");
    for (name, meaning) in VARIABLES {
        page.push_str(&format!("| `{name}` | {meaning} |\n"));
    }
    let mut folders = vec![repository().join("src/cli/src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for name in text.split("env = \"").skip(1).filter_map(|rest| rest.split('"').next()) {
                assert!(VARIABLES.iter().any(|(known, _)| *known == name), "{name} isn't described");
            }
        }
    }
}

/// JSON Schema of a Rust type as it stands in the source.
#[cfg(test)]
fn schema(kind: &str) -> Value {
    if let Some(inner) = kind.strip_prefix("Option<").and_then(|rest| rest.strip_suffix('>')) {
        return schema(inner);
    }
    if let Some(inner) = kind.strip_prefix("Vec<").and_then(|rest| rest.strip_suffix('>')) {
        return json!({"type": "array", "items": schema(inner)});
    }
    match kind {
        "String" => json!({"type": "string"}),
        "bool" => json!({"type": "boolean"}),
        "u16" | "u32" | "u64" => json!({"type": "integer", "minimum": 0}),
        "B64" => json!({"type": "string", "description": "base64url without padding"}),
        "JsonKey" => reference("Key"),
        other => reference(other),
    }
}

#[cfg(test)]
fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

#[cfg(test)]
fn object(shape: &Shape) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in &shape.fields {
        let renamed = field.attributes.split_once("rename = \"").and_then(|(_, rest)| rest.split('"').next());
        let name = renamed.unwrap_or(&field.name).to_owned();
        let mut value = schema(&field.kind);
        if value.get("$ref").is_some() {
            value = json!({"allOf": [value]});
        }
        value["description"] = json!(field.doc);
        if !field.attributes.contains("default") {
            required.push(name.clone());
        }
        properties.insert(name, value);
    }
    let mut object =
        json!({"type": "object", "description": shape.doc, "properties": properties, "required": required});
    if shape.closed {
        object["additionalProperties"] = json!(false);
    }
    object
}

#[cfg(test)]
fn components() -> Map<String, Value> {
    let mut schemas = Map::new();
    for path in ["src/core/src/api/mod.rs", "src/core/src/api/admin.rs"] {
        for item in shapes(&source(path)) {
            match item {
                Item::Struct(shape) => {
                    schemas.insert(shape.name.clone(), object(&shape));
                }
                Item::Enum { name, doc, variants } => {
                    let alternatives: Vec<Value> = variants
                        .iter()
                        .map(|variant| {
                            let mut alternative = object(variant);
                            alternative["properties"]["kind"] = json!({"const": variant.name.to_lowercase()});
                            alternative["required"].as_array_mut().unwrap().insert(0, json!("kind"));
                            alternative["additionalProperties"] = json!(false);
                            alternative
                        })
                        .collect();
                    schemas.insert(name, json!({"description": doc, "oneOf": alternatives}));
                }
            }
        }
    }
    schemas.insert(
        "Key".to_owned(),
        json!({
            "type": "object",
            "description": "A verifying key (PROTOCOL section 1.4).",
            "properties": {
                "alg": {"enum": ["EdDSA", "ES256"]},
                "pub": {"type": "string", "description": "base64url without padding"},
            },
            "required": ["alg", "pub"],
            "additionalProperties": false,
        }),
    );
    schemas.insert("Role".to_owned(), json!({"enum": ["viewer", "operator", "security-officer"]}));
    schemas
}

#[cfg(test)]
fn operation(route: &countersign_authority::api::routes::Route) -> Value {
    let caller = match route.needs {
        Needs::Anyone => "anyone",
        Needs::Host => "host",
        Needs::Gateway => "gateway",
        Needs::GatewayOrHost => "gateway or host",
        Needs::Operator(Role::Viewer) => "viewer",
        Needs::Operator(Role::Operator) => "operator",
        Needs::Operator(Role::SecurityOfficer) => "security officer",
    };
    let mut parameters: Vec<Value> = route
        .query
        .iter()
        .map(|name| {
            let plain = name.trim_end_matches('!');
            let kind = if plain == "after" { "string" } else { "integer" };
            json!({"name": plain, "in": "query", "required": plain != *name, "schema": {"type": kind}})
        })
        .collect();
    if let Some(name) = route.path.split(['{', '}']).nth(1) {
        let name = name.trim_start_matches('*');
        parameters.push(json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}));
    }
    let content = |kind: &str, schema: Value| json!({"content": {kind: {"schema": schema}}});
    let (status, mut good) = match route.gives {
        Answer::Json(name) => ("200", content("application/json", reference(name))),
        Answer::Text(kind) => ("200", content(kind, json!({"type": "string"}))),
        Answer::Bytes => ("200", content("application/octet-stream", json!({"type": "string"}))),
        Answer::Nothing => ("204", json!({})),
    };
    good["description"] = json!("Done.");
    let mut problem = content("application/problem+json", reference("Problem"));
    problem["description"] = json!("A problem; its code says which.");
    let mut operation = json!({
        "summary": route.summary,
        "x-caller": caller,
        "parameters": parameters,
        "responses": {status: good, "default": problem},
    });
    if let Some(name) = route.takes {
        operation["requestBody"] = content("application/json", reference(name));
        operation["requestBody"]["required"] = json!(true);
    }
    operation
}

#[cfg(test)]
fn paths(side: Side) -> Map<String, Value> {
    let mut paths = Map::new();
    for route in ROUTES.iter().filter(|route| route.side == side) {
        let method = match route.method {
            Method::Get => "get",
            Method::Post => "post",
        };
        let entry = paths.entry(route.path.replace("{*", "{")).or_insert_with(|| json!({}));
        entry[method] = operation(route);
    }
    paths
}

#[test]
fn the_published_description_is_the_table_and_the_shapes() {
    let mut all = paths(Side::Service);
    for (path, item) in paths(Side::Admin) {
        all.entry(path).or_insert(item);
    }
    let schemas = components();
    for route in ROUTES {
        let named = route.takes.into_iter().chain(match route.gives {
            Answer::Json(name) => Some(name),
            _ => None,
        });
        for name in named {
            assert!(
                schemas.contains_key(name),
                "{} names {name}, which isn't a shape of the API",
                route.path
            );
        }
    }
    let codes: Vec<&str> = RefusalCode::ALL.iter().map(|code| code.as_str()).collect();
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Countersign authority",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "PROTOCOL.md is normative. Callers are known by the key of their client certificate; x-caller says who may call. \
                Paths under /v1/admin and /metrics are on the admin listener.",
        },
        "paths": all,
        "components": {"schemas": schemas},
    });
    document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"] = json!(codes);
    compare("openapi.json", &(serde_json::to_string_pretty(&document).unwrap() + "\n"));
}
