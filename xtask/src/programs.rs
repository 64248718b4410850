//! Two objects of kernel programs, held against each other instruction by instruction: what the kernel would be given,
//! without what a compiler leaves in a file beside it (order, padding, symbols' places). Knows no toolchain.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionIndex, SymbolKind};

/// Bytes of an instruction (`include/uapi/linux/bpf.h`: `struct bpf_insn`).
const INSTRUCTION: usize = 8;
/// `BPF_JMP | BPF_CALL`.
const CALL: u8 = 0x85;
/// `src_reg` of a call of another function of the same object.
const PSEUDO_CALL: u8 = 1;

/// An instruction, and what it speaks of if that is a name: its immediate is then where the loader puts it.
type Instruction = ([u8; INSTRUCTION], Option<String>);

/// What the kernel gets of an object.
#[derive(Debug, PartialEq, Eq)]
struct Image {
    /// Functions by section (which is what kind of program they are) and name.
    programs: BTreeMap<String, Vec<Instruction>>,
    /// Maps, globals and the licence.
    data: BTreeMap<String, Vec<u8>>,
}

/// The first difference of each program, map and global; nothing if the kernel would get the same.
///
/// # Errors
/// When one of them is no object.
pub(crate) fn differences(kept: &[u8], built: &[u8]) -> Result<Vec<String>> {
    let (kept, built) =
        (Image::read(kept).context("the kept object")?, Image::read(built).context("the built object")?);
    let mut found = Vec::new();
    for (name, program) in &kept.programs {
        match built.programs.get(name) {
            None => found.push(format!("{name} is in the kept object only")),
            Some(other) => found.extend(instruction(program, other).map(|text| format!("{name}, {text}"))),
        }
    }
    for (name, data) in &kept.data {
        if built.data.get(name).is_none_or(|other| other != data) {
            found.push(format!("{name} is another"));
        }
    }
    let new = built.programs.keys().filter(|name| !kept.programs.contains_key(*name));
    let new = new.chain(built.data.keys().filter(|name| !kept.data.contains_key(*name)));
    found.extend(new.map(|name| format!("{name} is in the built object only")));
    Ok(found)
}

fn instruction(kept: &[Instruction], built: &[Instruction]) -> Option<String> {
    let at = (0..kept.len().max(built.len())).find(|&at| kept.get(at) != built.get(at))?;
    let show = |program: &[Instruction]| match program.get(at) {
        Some((bytes, Some(name))) => format!("{:016x} {name}", u64::from_be_bytes(*bytes)),
        Some((bytes, None)) => format!("{:016x}", u64::from_be_bytes(*bytes)),
        None => "none".to_owned(),
    };
    let lengths = (kept.len(), built.len());
    Some(format!("instruction {at}: kept {} (of {}), built {} (of {})", show(kept), lengths.0, show(built), lengths.1))
}

impl Image {
    fn read(bytes: &[u8]) -> Result<Self> {
        let file = object::File::parse(bytes)?;
        let (mut programs, mut data) = (BTreeMap::new(), BTreeMap::new());
        for symbol in file.symbols() {
            let (Some(index), Ok(name)) = (symbol.section_index(), symbol.name()) else {
                continue;
            };
            let section = file.section_by_index(index)?;
            let range = section.data_range(symbol.address(), symbol.size())?;
            let bytes = range.with_context(|| format!("{name} is not within {}", section.name().unwrap_or("?")))?;
            let name = format!("{}/{name}", section.name()?);
            match symbol.kind() {
                SymbolKind::Text => drop(programs.insert(name, read_program(&file, &symbol, bytes)?)),
                SymbolKind::Data => drop(data.insert(name, bytes.to_vec())),
                _ => {}
            }
        }
        Ok(Self { programs, data })
    }
}

fn read_program(file: &object::File<'_>, symbol: &object::Symbol<'_, '_>, bytes: &[u8]) -> Result<Vec<Instruction>> {
    let section = symbol.section_index().context("a program without a section")?;
    let targets: BTreeMap<u64, RelocationTarget> = file
        .section_by_index(section)?
        .relocations()
        .map(|(offset, relocation)| (offset, relocation.target()))
        .collect();
    let mut program = Vec::new();
    let mut address = symbol.address();
    for chunk in bytes.chunks_exact(INSTRUCTION) {
        let mut instruction = <[u8; INSTRUCTION]>::try_from(chunk)?;
        let name = referred(file, section, address, instruction, targets.get(&address))?;
        if name.is_some() {
            instruction[4..].fill(0);
        }
        program.push((instruction, name));
        address += INSTRUCTION as u64;
    }
    Ok(program)
}

/// The name that an instruction's immediate stands for: of a map or global, or of a function that it calls.
fn referred(
    file: &object::File<'_>,
    section: SectionIndex,
    address: u64,
    [code, registers, _, _, immediate @ ..]: [u8; INSTRUCTION],
    target: Option<&RelocationTarget>,
) -> Result<Option<String>> {
    let immediate =
        i64::from(if file.is_little_endian() { i32::from_le_bytes(immediate) } else { i32::from_be_bytes(immediate) });
    let source = if file.is_little_endian() { registers >> 4 } else { registers & 0xf };
    let is_call = code == CALL && source == PSEUDO_CALL;
    // A call counts instructions from the one behind it, or from the start of what it is relocated to.
    let distance = if is_call { (immediate + 1) * i64::try_from(INSTRUCTION)? } else { immediate };
    let (section, place) = match target {
        Some(RelocationTarget::Symbol(index)) => {
            let symbol = file.symbol_by_index(*index)?;
            match symbol.section_index() {
                Some(section) => (section, symbol.address().checked_add_signed(distance)),
                None => return Ok(Some(symbol.name()?.to_owned())),
            }
        }
        _ if is_call => (section, address.checked_add_signed(distance)),
        _ => return Ok(None),
    };
    let place = place.context("an instruction speaks of what is before its section")?;
    let holds = |symbol: &object::Symbol<'_, '_>| {
        symbol.section_index() == Some(section)
            && symbol.size() > 0
            && (symbol.address()..symbol.address() + symbol.size()).contains(&place)
    };
    let name = match file.symbols().find(holds) {
        Some(symbol) => format!("{}+{}", symbol.name()?, place - symbol.address()),
        None => format!("{}+{place}", file.section_by_index(section)?.name()?),
    };
    Ok(Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kept, sh};

    fn object() -> Vec<u8> {
        std::fs::read(kept::object(&sh::root())).unwrap()
    }

    /// Where in the file a program's instruction is.
    fn place(bytes: &[u8], program: &str, instruction: u64) -> usize {
        let file = object::File::parse(bytes).unwrap();
        let symbol = file.symbol_by_name(program).unwrap();
        let section = file.section_by_index(symbol.section_index().unwrap()).unwrap();
        usize::try_from(section.file_range().unwrap().0 + symbol.address() + instruction * 8).unwrap()
    }

    #[test]
    fn another_instruction_is_named_with_its_program() {
        let kept = object();
        let mut built = kept.clone();
        let at = place(&built, "mpnc_steer", 3);
        built[at + 4] ^= 1;
        let found = differences(&kept, &built).unwrap();
        assert!(found.len() == 1 && found[0].starts_with("socket/mpnc_steer, instruction 3: kept "), "{found:?}");
        assert_eq!(differences(&kept, &kept).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn another_map_is_named_and_a_files_own_name_is_no_difference() {
        let kept = object();
        let (mut map, mut name) = (kept.clone(), kept.clone());
        let file = object::File::parse(&*kept).unwrap();
        let maps = file.section_by_name("maps").unwrap().file_range().unwrap().0;
        map[usize::try_from(maps).unwrap() + 4] ^= 1;
        let found = differences(&kept, &map).unwrap();
        assert!(found.len() == 1 && found[0].starts_with("maps/"), "{found:?}");

        let at = kept.windows(13).position(|window| window == b"linked_module").unwrap();
        name[at] = b'L';
        assert_eq!(differences(&kept, &name).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_an_instruction_speaks_of_counts_by_its_name() {
        let image = Image::read(&object()).unwrap();
        let steer = &image.programs["socket/mpnc_steer"];
        let names: Vec<_> = steer.iter().filter_map(|(_, name)| name.as_deref()).collect();
        assert!(names.contains(&"WORKERS+0") && names.contains(&"STEERED+0"), "{names:?}");
    }

    #[test]
    fn what_is_no_object_is_an_error() {
        assert!(differences(&object(), b"no object").is_err());
    }
}
