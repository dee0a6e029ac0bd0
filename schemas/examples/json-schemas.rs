//! Writes `schemas/json/`: `cargo run -p riverlock-schemas --example json-schemas`.

#![expect(clippy::print_stdout, reason = "this example is a command-line tool")]

use std::{fs, io, path::Path};

fn main() -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("json");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let documents = riverlock_schemas::json_schema::documents();
    for document in &documents {
        let path = folder.join(&document.path);
        fs::create_dir_all(path.parent().unwrap_or(&folder))?;
        fs::write(path, format!("{:#}\n", document.schema))?;
    }
    println!("{} schemas are in {}", documents.len(), folder.display());
    Ok(())
}
