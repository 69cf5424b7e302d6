package scan

import (
	"bytes"
	"cmp"
	"compress/zlib"
	"context"
	"debug/elf"
	"debug/pe"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/tidewaiter/tidewaiter/gate"
)

// auditableSection is where "cargo auditable" puts the list of what a binary was built of (rust-secure-code/cargo-auditable,
// PARSING.md): zlib over JSON.
const auditableSection = ".dep-v0"

// maxAuditableBytes bounds the list; the format's own readers take 8 MiB for more than any program has.
const maxAuditableBytes = 8 << 20

// readRust returns the crates a binary says it was built of.
func readRust(_ context.Context, f file) ([]gate.Package, error) {
	if !bytes.Contains(f.data, []byte(auditableSection)) {
		return nil, nil
	}
	section, err := auditableList(f.data)
	if err != nil || section == nil {
		return nil, err
	}
	packed, err := zlib.NewReader(section)
	if err != nil {
		return nil, fmt.Errorf("section %s: %w", auditableSection, err)
	}
	list, err := io.ReadAll(io.LimitReader(packed, maxAuditableBytes+1))
	if err != nil {
		return nil, fmt.Errorf("section %s: %w", auditableSection, err)
	}
	if len(list) > maxAuditableBytes {
		return nil, overLimit("section %s unpacks to more than %d bytes", auditableSection, maxAuditableBytes)
	}
	return readCrates(list)
}

// auditableList returns the packed list in a binary that has the name of its section somewhere in it; nil when it only speaks of it.
// Systems start programs whose sections cannot be found, so that a list that cannot be found is an error.
func auditableList(data []byte) (io.Reader, error) {
	if !bytes.HasPrefix(data, []byte(elfMagic)) {
		binary, err := pe.NewFile(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("it names section %s, and its headers: %w", auditableSection, err)
		}
		section := binary.Section(auditableSection)
		if section == nil {
			return nil, nil
		}
		return section.Open(), nil
	}
	binary, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("it names section %s, and its headers: %w", auditableSection, err)
	}
	section := binary.Section(auditableSection)
	switch {
	case section == nil && namedOutside(data, binary.Progs), section != nil && section.Type == elf.SHT_NOBITS && hasCode(binary.Progs):
		return nil, fmt.Errorf("it names section %s, and no header leads to that", auditableSection)
	case section == nil || section.Type == elf.SHT_NOBITS: // it speaks of it, or has only what debuggers need
		return nil, nil
	}
	return io.NewSectionReader(section.ReaderAt, 0, int64(section.FileSize)), nil
}

// namedOutside reports whether data has the section's name, as names of sections are written, where none of segments has it loaded. In
// what is loaded it is a text of the program's.
func namedOutside(data []byte, segments []*elf.Prog) bool {
	name := []byte("\x00" + auditableSection + "\x00")
	loaded := slices.DeleteFunc(slices.Clone(segments), func(s *elf.Prog) bool { return s.Type != elf.PT_LOAD })
	slices.SortFunc(loaded, func(a, b *elf.Prog) int { return cmp.Compare(a.Off, b.Off) })
	at, size := uint64(0), uint64(len(data))
	for _, s := range loaded {
		if from := min(s.Off, size); from > at && bytes.Contains(data[at:from], name) {
			return true
		}
		at = max(at, min(s.Off, size)+min(s.Filesz, size-min(s.Off, size)))
	}
	return bytes.Contains(data[at:], name)
}

// hasCode reports whether segments are a program's, and not those of a file with what debuggers need to know of one.
func hasCode(segments []*elf.Prog) bool {
	return slices.ContainsFunc(segments, func(s *elf.Prog) bool {
		return s.Type == elf.PT_LOAD && s.Flags&elf.PF_X != 0 && s.Filesz > 0
	})
}

func readCrates(list []byte) ([]gate.Package, error) {
	var fields object
	var crates []object
	if err := errors.Join(json.Unmarshal(list, &fields), json.Unmarshal(fields["packages"], &crates)); err != nil {
		return nil, fmt.Errorf("section %s: %w", auditableSection, err)
	}
	var packages []gate.Package
	for _, crate := range crates {
		if kind := text(crate["kind"]); kind == "build" { // only the compiler ran it
			continue
		}
		pkg := gate.Package{Type: "cargo", Name: text(crate["name"]), Version: text(crate["version"])}
		if pkg.Name == "" || pkg.Version == "" {
			return packages, errors.New("a crate has no name or no version")
		}
		packages = append(packages, pkg)
	}
	return packages, nil
}
