package scan

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/binary"
	"errors"
	"fmt"
	rtdebug "runtime/debug"
	"slices"
	"strings"

	"github.com/tidewaiter/tidewaiter/gate"
)

// goMark begins what Go's linker writes into a program about how it was built; a program without it has no such information.
const goMark = "\xff Go buildinf:"

const (
	// goHeaderBytes is what follows the mark: the size of a pointer, flags, and room for two pointers.
	goHeaderBytes = 2 + 16
	// goFrameBytes is the length of what the go command puts before and after the list of modules.
	goFrameBytes = 16
	// maxGoVersionBytes bounds the version of the toolchain; with the names of experiments and of a distribution it has some hundred.
	maxGoVersionBytes = 1 << 10
	// maxGoInformation bounds the programs looked for in one that hides its own headers.
	maxGoInformation = 64
)

// readGo returns the modules a Go program says it was built of, and the standard library. Its headers tell where that is written, but
// neither Linux nor Windows needs what they tell that by to start the program: sections, symbols, the class. Where they lead to nothing,
// it is looked for in the bytes.
func readGo(_ context.Context, f file) ([]gate.Package, error) {
	info, err := buildinfo.Read(bytes.NewReader(f.data))
	if err == nil {
		return goPackages(info), nil
	}
	// Most executables end here. Code is full of the byte the mark begins with, and looking for the rest takes a third of the time.
	if !bytes.Contains(f.data, []byte(goMark[1:])) {
		return nil, nil
	}
	return goInformationIn(f.data)
}

// goPackages returns what info tells of. Advisories call the standard library stdlib.
func goPackages(info *buildinfo.BuildInfo) []gate.Package {
	version, _, _ := strings.Cut(info.GoVersion, " ")
	packages := []gate.Package{{Type: "golang", Name: "stdlib", Version: strings.TrimPrefix(version, "go")}}
	add := func(m *rtdebug.Module) {
		if m.Path != "" {
			packages = append(packages, gate.Package{Type: "golang", Name: m.Path, Version: strings.TrimPrefix(m.Version, "v")})
		}
	}
	for _, m := range info.Deps {
		if m.Replace != nil && m.Replace.Path != "" {
			m = m.Replace
		}
		add(m)
	}
	add(&info.Main)
	return packages
}

// goInformationIn returns what is told by whatever Go's linker wrote into data, wherever that lies. A program that was built by Go and
// does not tell is an error, one that only speaks of the mark is not.
func goInformationIn(data []byte) (packages []gate.Package, err error) {
	for found := 0; ; {
		_, rest, marked := bytes.Cut(data, []byte(goMark))
		if !marked {
			return packages, err
		}
		if data = rest; !isGoHeader(rest) {
			continue
		}
		if found++; found > maxGoInformation {
			return packages, overLimit("more than %d programs in one", maxGoInformation)
		}
		info, broken := goInformationAt(rest)
		if broken != nil {
			err = fmt.Errorf("it was built by Go, and what it was built of cannot be read: %w", broken)
		}
		if info != nil {
			packages = append(packages, goPackages(info)...)
		}
	}
}

// isGoHeader reports whether what follows a mark was written by the linker.
func isGoHeader(header []byte) bool {
	return len(header) >= goHeaderBytes && (header[0] == 4 || header[0] == 8) && header[1] < 4
}

// goInformationAt reads what follows a mark (debug/buildinfo). With an error it may still return the version of the toolchain.
func goInformationAt(data []byte) (*buildinfo.BuildInfo, error) {
	const inline = 2 // the flag of Go 1.18 and later
	if data[1]&inline == 0 {
		return nil, errors.New("only headers lead to what was written before Go 1.18")
	}
	version, rest, ok := goText(data[goHeaderBytes:])
	if !ok || len(version) == 0 || len(version) > maxGoVersionBytes || slices.ContainsFunc(version, func(b byte) bool { return b < ' ' || b > '~' }) {
		return nil, errors.New("no version of Go")
	}
	info := &buildinfo.BuildInfo{GoVersion: string(version)}
	modules, _, ok := goText(rest)
	if !ok || len(modules) > 0 && len(modules) < 2*goFrameBytes {
		return info, errors.New("the list of modules is cut short")
	}
	if len(modules) == 0 { // built without modules
		return info, nil
	}
	modules = modules[goFrameBytes : len(modules)-goFrameBytes]
	if len(modules) > 0 && modules[len(modules)-1] != '\n' {
		return info, errors.New("the list of modules has no end")
	}
	parsed, err := rtdebug.ParseBuildInfo(string(modules))
	if err != nil {
		return info, err
	}
	parsed.GoVersion = info.GoVersion
	return parsed, nil
}

// goText returns the text data begins with, after its length, and what follows.
func goText(data []byte) (text, rest []byte, ok bool) {
	length, n := binary.Uvarint(data)
	if n <= 0 || length > uint64(len(data)-n) {
		return nil, nil, false
	}
	return data[n : n+int(length)], data[n+int(length):], true
}
