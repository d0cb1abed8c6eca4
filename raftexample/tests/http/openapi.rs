//! The published description of the client port, and what the port really has.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use raftexample::httpapi::{Kind, OPENAPI, PATTERNS, Pattern, ServerLimits};
use saphyr::{LoadableYamlNode, Yaml};

use crate::port::{Options, Port, Reply};

const METHODS: [&str; 8] = ["get", "put", "post", "delete", "patch", "head", "options", "trace"];

fn description() -> Yaml<'static> {
    let mut documents = Yaml::load_from_str(OPENAPI).unwrap();
    assert_eq!(documents.len(), 1);
    documents.remove(0)
}

fn entries<'a>(yaml: &'a Yaml<'_>) -> impl Iterator<Item = (&'a str, &'a Yaml<'a>)> {
    yaml.as_mapping().unwrap().iter().map(|(key, value)| (key.as_str().unwrap(), value))
}

fn items<'a>(yaml: &'a Yaml<'_>) -> impl Iterator<Item = &'a Yaml<'a>> {
    yaml.as_sequence().unwrap().iter()
}

/// The operation that a request is described as; `None` when there is none.
fn operation(
    description: &'static Yaml<'static>,
    method: &str,
    path: &str,
) -> Option<&'static Yaml<'static>> {
    let fits = |pattern: &str| match pattern.split_once('{') {
        Some(("/", _)) => path.starts_with('/') && !path.starts_with("/_"),
        Some((prefix, _)) => path.starts_with(prefix),
        None => path == pattern,
    };
    let item = |pattern: &Pattern| {
        description["paths"].as_mapping_get(pattern.path)?.as_mapping_get(&method.to_lowercase())
    };
    PATTERNS.iter().filter(|pattern| fits(pattern.path)).find_map(item)
}

/// Every answer that a test of this port sees has a status and headers which are described. What
/// no operation describes is 404 or 405, and too many connections are too many for all.
pub(crate) fn assert_described(method: &str, target: &str, reply: &Reply) {
    static DESCRIPTION: OnceLock<Yaml<'static>> = OnceLock::new();
    let description = DESCRIPTION.get_or_init(description);
    // In absolute form the host is passed over.
    let path =
        target.split_once("://").map_or(target, |(_, rest)| &rest[rest.find('/').unwrap_or(0)..]);
    let path = path.split('?').next().unwrap_or_default();
    let Some(operation) = operation(description, method, path) else {
        assert!(matches!(reply.status, 400 | 404 | 405), "{method} {target}: {reply:?}");
        return;
    };
    let crowded = String::from_utf8_lossy(&reply.body).contains("open connections");
    // Only a fake node finds a command without a value too large.
    let fake = reply.status == 413 && ["GET", "DELETE"].contains(&method);
    if crowded || fake {
        return;
    }
    let status = reply.status.to_string();
    let response = operation["responses"].as_mapping_get(&status);
    let response = response.unwrap_or_else(|| panic!("{method} {target}: {status} undescribed"));
    let response = match response.as_mapping_get("$ref") {
        Some(reference) => {
            let name = reference.as_str().unwrap().rsplit('/').next().unwrap();
            &description["components"]["responses"][name]
        }
        None => response,
    };
    let headers = response.as_mapping_get("headers");
    let described = |name: &str| headers.is_some_and(|h| h.as_mapping_get(name).is_some());
    for (name, _) in &reply.headers {
        let ours =
            name.starts_with("X-Raft-") || ["Retry-After", "Server-Timing"].contains(&&**name);
        assert!(!ours || described(name), "{method} {target}: {status} with {name} undescribed");
    }
}

/// What is described is there, and what is there is described: a route in one and not in the
/// other is a lie to somebody.
#[test]
fn routes_are_described() {
    let description = description();
    let described: BTreeSet<(String, String)> = entries(&description["paths"])
        .flat_map(|(path, item)| {
            let methods = entries(item).map(|(name, _)| name).filter(|name| METHODS.contains(name));
            methods.map(|method| (path.to_owned(), method.to_uppercase())).collect::<Vec<_>>()
        })
        .collect();
    let served: BTreeSet<(String, String)> = PATTERNS
        .iter()
        .flat_map(|pattern| {
            let methods = pattern.methods.split(", ");
            methods.map(|method| (pattern.path.to_owned(), method.to_owned()))
        })
        .collect();
    assert_eq!(described, served);
}

/// Clients match on these names.
#[test]
fn kinds_of_error_are_described() {
    let description = description();
    let schema = &description["components"]["schemas"]["Error"]["properties"]["error"];
    let described: Vec<_> = items(&schema["enum"]).map(|name| name.as_str().unwrap()).collect();
    let emitted: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(described, emitted);
    // The text names each behind its status.
    let text = schema["description"].as_str().unwrap().replace('\n', " ");
    for status in text.split("; ") {
        let (status, names) = status.split_once(' ').unwrap();
        for kind in Kind::ALL.iter().filter(|kind| names.contains(&format!("`{}`", kind.name()))) {
            assert_eq!(kind.status().to_string(), status, "{kind:?}");
        }
    }
    for kind in Kind::ALL {
        assert!(text.contains(&format!("`{}`", kind.name())), "{kind:?}");
    }
}

/// Each parameter that is described is understood, with each value that it may have; and what is
/// not described is refused, everywhere.
#[test]
fn parameters_are_described() {
    // Watches are dropped with their connections, of which there are many.
    let port = Port::open_with(Options { limits: ServerLimits::new(1000), ..Options::default() });
    let description = description();
    let mut asked = 0;
    for (path, item) in entries(&description["paths"]) {
        let target = path.replace("{key}", "4").replace("{id}", "4");
        for (method, operation) in entries(item).filter(|(name, _)| METHODS.contains(name)) {
            let method = method.to_uppercase();
            let known = |query: &str| {
                let reply = port.ask(&method, &format!("{target}?{query}"), b"");
                let text = String::from_utf8_lossy(&reply.body);
                let refused = text.contains("is not known") || text.contains("is wrong");
                assert!(!refused || reply.status == 400);
                !refused
            };
            assert!(!known("nobody-knows-this=1"), "{method} {path}");
            let Some(parameters) = operation.as_mapping_get("parameters") else { continue };
            for parameter in items(parameters) {
                let parameter = match parameter.as_mapping_get("$ref") {
                    Some(reference) => {
                        let name = reference.as_str().unwrap().rsplit('/').next().unwrap();
                        &description["components"]["parameters"][name]
                    }
                    None => parameter,
                };
                if parameter["in"].as_str() != Some("query") {
                    continue;
                }
                let name = parameter["name"].as_str().unwrap();
                let values: Vec<&str> = match parameter["schema"].as_mapping_get("enum") {
                    Some(values) => items(values).map(|value| value.as_str().unwrap()).collect(),
                    None => vec!["1"],
                };
                for value in values {
                    assert!(known(&format!("{name}={value}")), "{method} {path} {name}={value}");
                    asked += 1;
                }
            }
        }
    }
    assert!(asked > 30, "only {asked} parameters were found");
}

/// A program finds the description where the port is.
#[test]
fn the_port_serves_its_description() {
    let reply = Port::open().ask("GET", "/_openapi.yaml", b"");
    assert_eq!((reply.status, reply.header("Content-Type")), (200, Some("application/yaml")));
    assert_eq!(reply.body, OPENAPI.as_bytes());
}
