//! Reads structs and enums with their comments out of formatted Rust source, as far as our own plain shapes need it: the one place from which
//! pages about them can be written without a second list.

/// A struct, or a variant with fields.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) name: String,
    pub(crate) doc: String,
    pub(crate) closed: bool,
    pub(crate) fields: Vec<Field>,
}

/// A field as it stands.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) doc: String,
    pub(crate) attributes: String,
}

/// What was found.
#[derive(Debug)]
pub(crate) enum Item {
    Struct(Shape),
    /// Only enums whose variants have fields.
    Enum {
        name: String,
        doc: String,
        variants: Vec<Shape>,
    },
}

/// Comments and attributes that stand before something.
#[derive(Default)]
struct Before {
    doc: String,
    attributes: String,
}

impl Before {
    /// Takes a line that belongs before something; `false` if it doesn't.
    fn take(&mut self, line: &str) -> bool {
        if let Some(text) = line.strip_prefix("///") {
            if !self.doc.is_empty() {
                self.doc.push(' ');
            }
            self.doc.push_str(text.trim());
            return true;
        }
        if line.starts_with("#[") {
            self.attributes.push_str(line);
            return true;
        }
        false
    }
}

fn field(line: &str, before: Before) -> Option<Field> {
    let line = line.strip_prefix("pub ").or(line.strip_prefix("pub(crate) ")).unwrap_or(line);
    let line = line.trim_end_matches(',');
    let (name, kind) = line.split_once(": ")?;
    Some(Field {
        name: name.to_owned(),
        kind: kind.to_owned(),
        doc: before.doc,
        attributes: before.attributes,
    })
}

/// All structs with named fields and all enums with fields in their variants, in order.
pub(crate) fn shapes(source: &str) -> Vec<Item> {
    let mut items = Vec::new();
    let mut lines = source.lines();
    let mut before = Before::default();
    while let Some(line) = lines.next() {
        if before.take(line) {
            continue;
        }
        let taken = std::mem::take(&mut before);
        let closed = taken.attributes.contains("deny_unknown_fields");
        let public = line.strip_prefix("pub ").or(line.strip_prefix("pub(crate) ")).unwrap_or(line);
        if let Some(name) = public.strip_prefix("struct ").and_then(|rest| rest.strip_suffix(" {")) {
            let fields = fields(&mut lines, "}");
            items.push(Item::Struct(Shape { name: name.to_owned(), doc: taken.doc, closed, fields }));
        } else if let Some(name) = line.strip_prefix("pub enum ").and_then(|rest| rest.strip_suffix(" {")) {
            let variants = variants(&mut lines);
            if variants.iter().any(|variant| !variant.fields.is_empty()) {
                items.push(Item::Enum { name: name.to_owned(), doc: taken.doc, variants });
            }
        }
    }
    items
}

fn fields<'a>(lines: &mut impl Iterator<Item = &'a str>, end: &str) -> Vec<Field> {
    let mut fields = Vec::new();
    let mut before = Before::default();
    for line in lines.map(str::trim) {
        if line == end {
            break;
        }
        if !before.take(line) {
            fields.extend(field(line, std::mem::take(&mut before)));
        }
    }
    fields
}

fn variants<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Vec<Shape> {
    let mut variants = Vec::new();
    let mut before = Before::default();
    while let Some(line) = lines.next() {
        if line == "}" {
            break;
        }
        let line = line.trim();
        if before.take(line) {
            continue;
        }
        let taken = std::mem::take(&mut before);
        if let Some(name) = line.strip_suffix(" {") {
            let fields = fields(lines, "},");
            variants.push(Shape { name: name.to_owned(), doc: taken.doc, closed: true, fields });
        }
    }
    variants
}
