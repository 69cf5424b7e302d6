package scan

import (
	"bytes"
	"compress/zlib"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"

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
	binary, err := elf.NewFile(bytes.NewReader(f.data))
	if err != nil {
		return nil, nil // nothing can be in a section of it
	}
	section := binary.Section(auditableSection)
	if section == nil || section.Type == elf.SHT_NOBITS {
		return nil, nil
	}
	packed, err := zlib.NewReader(io.NewSectionReader(section.ReaderAt, 0, int64(section.FileSize)))
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
