//! A check of JSON against a schema, as far as schemas here go: type, const, enum, bounds, required, properties, items,
//! `$ref` to `$defs`.
//!
//! Own code: the crates for it (jsonschema, boon) bring 36 and 38 others into the tree, for these ten rules, and none
//! insists that the schema names every field, which is what is to be shown here.

use serde_json::Value;

/// What a schema may say beside what is checked.
const REMARKS: [&str; 5] = ["$schema", "$defs", "$ref", "title", "description"];

/// Asserts that `value` is as `schema` says, and that the schema names every field that there is: what is published is
/// complete.
#[track_caller]
pub(crate) fn assert_valid(schema: &Value, value: &Value) {
    if let Err(fault) = check(schema, schema, value, "line") {
        panic!("{fault}\n{value}");
    }
}

fn check(root: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    if let Some(name) = schema["$ref"].as_str() {
        let target = root.pointer(name.trim_start_matches('#')).ok_or_else(|| format!("no {name} in the schema"))?;
        check(root, target, value, at)?;
    }
    let rules = schema.as_object().ok_or_else(|| format!("{at}: the schema is no object"))?;
    for (rule, said) in rules.iter().filter(|(rule, _)| !REMARKS.contains(&rule.as_str())) {
        let holds = match rule.as_str() {
            "type" => one_or_many(said).any(|kind| is_a(kind, value)),
            "const" => said == value,
            "enum" => said.as_array().is_some_and(|values| values.contains(value)),
            "minimum" => value.is_null() || value.as_f64() >= said.as_f64(),
            "maximum" => value.is_null() || value.as_f64() <= said.as_f64(),
            "required" => value.is_null() || one_or_many(said).all(|name| value.get(name.as_str().unwrap()).is_some()),
            "properties" => {
                for (name, field) in value.as_object().into_iter().flatten() {
                    let known = said.get(name).ok_or_else(|| format!("{at}.{name} is not in the schema"))?;
                    check(root, known, field, &format!("{at}.{name}"))?;
                }
                true
            }
            "items" => {
                for (n, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, said, item, &format!("{at}[{n}]"))?;
                }
                true
            }
            other => return Err(format!("{at}: this check does not know the rule {other:?}")),
        };
        if !holds {
            return Err(format!("{at}: {value} is against {rule} {said}"));
        }
    }
    Ok(())
}

fn one_or_many(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice).iter()
}

fn is_a(kind: &Value, value: &Value) -> bool {
    match kind.as_str() {
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("number") => value.is_number(),
        Some("string") => value.is_string(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => false,
    }
}
