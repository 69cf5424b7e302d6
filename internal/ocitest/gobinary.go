package ocitest

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
)

// Executable returns the program that is running, a real Go binary with its build information: tens of megabytes.
func Executable(path string) (File, error) {
	self, err := os.Executable()
	if err != nil {
		return File{}, fmt.Errorf("finding the running program: %w", err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		return File{}, fmt.Errorf("reading the running program: %w", err)
	}
	return File{Path: path, Body: b, Mode: executableMode}, nil
}

const executableMode fs.FileMode = 0o755

// GoBinary returns an ELF file that carries the build information of a Go program and no code: what scanners read of a binary,
// in less than a kilobyte. info.GoVersion is the toolchain, "go1.26.3".
func GoBinary(path string, info debug.BuildInfo) File {
	blob := buildInfo(info)
	const names = "\x00.go.buildinfo\x00.shstrtab\x00"
	header := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Phnum: 1, Shnum: 3, Shstrndx: 2,
	}
	copy(header.Ident[:], elf.ELFMAG)
	header.Ident[elf.EI_CLASS], header.Ident[elf.EI_DATA] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB)
	header.Ident[elf.EI_VERSION] = byte(elf.EV_CURRENT)
	header.Ehsize, header.Phentsize, header.Shentsize = sizeOf(header), sizeOf(elf.Prog64{}), sizeOf(elf.Section64{})

	const loadAt, align = 0x400000, 16 // readers look for the build information at multiples of 16
	blobAt := (uint64(header.Ehsize+header.Phentsize) + align - 1) / align * align
	namesAt := blobAt + uint64(len(blob))
	header.Phoff, header.Shoff = uint64(header.Ehsize), namesAt+uint64(len(names))
	segment := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W), Off: blobAt, Vaddr: loadAt + blobAt,
		Filesz: uint64(len(blob)), Memsz: uint64(len(blob)), Align: align,
	}
	sections := []elf.Section64{{}, {
		Name: 1, Type: uint32(elf.SHT_PROGBITS), Flags: uint64(elf.SHF_ALLOC | elf.SHF_WRITE),
		Addr: segment.Vaddr, Off: blobAt, Size: segment.Filesz, Addralign: align,
	}, {
		Name: 15, Type: uint32(elf.SHT_STRTAB), Off: namesAt, Size: uint64(len(names)), Addralign: 1,
	}}

	file := encode(nil, header, segment)
	file = append(file, make([]byte, blobAt-uint64(len(file)))...)
	file = append(append(file, blob...), names...)
	return File{Path: path, Body: encode(file, sections), Mode: executableMode}
}

// buildInfo returns the blob the linker writes: magic, pointer size, flags for inline strings, then the toolchain and the
// modules, each with its length before it. The modules stand between two marks of 16 bytes.
func buildInfo(info debug.BuildInfo) []byte {
	version := info.GoVersion
	info.GoVersion = ""
	const mark = "0123456789abcdef"
	modules := mark + info.String() + mark
	blob := append([]byte("\xff Go buildinf:"), 8, 2)
	blob = append(blob, make([]byte, 16)...)
	for _, s := range []string{version, modules} {
		blob = append(binary.AppendUvarint(blob, uint64(len(s))), s...)
	}
	return blob
}

func sizeOf(v any) uint16 { return uint16(binary.Size(v)) }

// encode appends values of fixed size, little endian. It panics for others, which only this file could give it.
func encode(b []byte, values ...any) []byte {
	buf := bytes.NewBuffer(b)
	for _, v := range values {
		if err := binary.Write(buf, binary.LittleEndian, v); err != nil {
			panic(fmt.Sprintf("ocitest: encoding a binary: %v", err))
		}
	}
	return buf.Bytes()
}
