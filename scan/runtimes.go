package scan

import (
	"bytes"
	"context"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/tidewaiter/tidewaiter/gate"
)

// runtimeKind is a program that images carry without any package manager knowing: built from source or unpacked from its maker's
// archive. It is known by the name of its file and says its version inside. Somebody who renames it hides it; that is no worse than
// what they can do to any other program of theirs.
type runtimeKind struct {
	// name is what advisories file it under.
	name string
	// file matches the base name of its executable or its library.
	file *regexp.Regexp
	// version finds the version in a file called base that holds data; empty if it is not there.
	version func(base string, data []byte) string
}

// stating returns what finds a version as the first group of pattern, among the text in a file. It begins with text that is always the
// same, or finding it would take as long as everything else together.
func stating(pattern string) func(base string, data []byte) string {
	text := regexp.MustCompile(pattern)
	return func(_ string, data []byte) string {
		if found := text.FindSubmatch(data); found != nil {
			return string(found[1])
		}
		return ""
	}
}

// runtimes are those that public images carry in this way. Go's is not among them: its binaries tell by themselves.
var runtimes = []runtimeKind{
	{"node", regexp.MustCompile(`^(?:node(?:js)?|libnode\.so[0-9.]*)$`), stating(`nodejs\.org/download/[a-z-]+/v(\d+\.\d+\.\d+)/`)},
	{"java", regexp.MustCompile(`^libjvm\.so$`), stating(` VM \([^)]*\) for [a-z0-9_-]+ JRE \(([0-9][0-9A-Za-z._+-]*)`)},
	{"nginx", regexp.MustCompile(`^nginx(?:-debug)?$`), stating(`\x00nginx version: nginx/(\d+\.\d+\.\d+)`)},
	{"postgresql", regexp.MustCompile(`^postgres$`), stating(`\(PostgreSQL\) (\d+(?:\.\d+)+)`)},
	{"php", regexp.MustCompile(`^(?:php[0-9.]*(?:-cgi|-fpm)?|php-fpm[0-9.]*|libphp[0-9.]*\.so)$`), stating(`X-Powered-By: PHP/(\d+\.\d+\.\d+)`)},
	{"ruby", regexp.MustCompile(`^(?:ruby[0-9.]*|libruby[-0-9.]*\.so[0-9.]*)$`), stating(`\x00ruby (\d+\.\d+\.\d+)(?:p\d+)? \(`)},
	{"python", pythonFile, pythonVersion},
	{"redis", redisFile, redisVersion},
}

// busyboxVersion finds the version of BusyBox under any name: it is installed as all the programs it stands for, hard links of one
// another, of which an archive has any one first.
var busyboxVersion = regexp.MustCompile(`BusyBox v(\d+\.\d+\.\d+)`)

const busyboxMark = "BusyBox v"

// pythonFile matches an interpreter or its library, whose name tells the line of releases it is of.
var pythonFile = regexp.MustCompile(`^(?:lib)?python(\d\.\d+)[a-z]*(?:\.so(?:\.\d+)*)?$`)

// runtimeOf returns the runtime that an executable at p would be taken for by its name; the zero one if none. BusyBox is not among them:
// it is known by what is in it.
func runtimeOf(p string) runtimeKind {
	base := path.Base(p)
	for _, r := range runtimes {
		if r.file.MatchString(base) {
			return r
		}
	}
	return runtimeKind{}
}

// readRuntime returns the runtime f is, if it is one.
func readRuntime(_ context.Context, f file) ([]gate.Package, error) {
	r := runtimeOf(f.path)
	name, version := r.name, ""
	if name != "" {
		version = r.version(path.Base(f.path), f.data)
	}
	if bytes.Contains(f.data, []byte(busyboxMark)) {
		if found := busyboxVersion.FindSubmatch(f.data); found != nil {
			name, version = "busybox", string(found[1])
		}
	}
	if version == "" {
		return nil, nil // a script, a launcher, or something else of the name
	}
	if name == "java" {
		version = javaVersion(version)
	}
	return []gate.Package{{Type: "generic", Name: name, Version: version}}, nil
}

// pythonVersion finds the text that is a release of the line in a file's name, "3.11.2": no other in the file begins so. Linkers let it end
// another text, a path, of the same ending.
func pythonVersion(base string, data []byte) string {
	begin := []byte(pythonFile.FindStringSubmatch(base)[1] + ".")
	for at := 0; ; {
		i := bytes.Index(data[at:], begin)
		if i < 0 {
			return ""
		}
		at += i
		if at > 0 && (data[at-1] == 0 || data[at-1] == '/') {
			if found := pythonRelease.Find(data[at:min(len(data), at+maxReleaseBytes)]); found != nil {
				return string(bytes.TrimRight(found, "+\x00"))
			}
		}
		at += len(begin)
	}
}

var pythonRelease = regexp.MustCompile(`^\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?\+?\x00`)

// maxReleaseBytes is longer than any version of Python's.
const maxReleaseBytes = 32

// redisFile matches the names of the one program of Redis.
var redisFile = regexp.MustCompile(`^redis-(?:server|check-rdb|check-aof|sentinel)$`)

// redisBuild matches the end of a text that is the identifier of a build: version, machine, time in seconds or nanoseconds.
var redisBuild = regexp.MustCompile(`(\d+\.\d+\.\d+)(?:\d{19}|[A-Za-z0-9._-]*-\d{10}(?:\d{9})?)$`)

// maxBuildBytes bounds that text: a machine's name has at most 64 bytes.
const maxBuildBytes = 128

// redisVersion finds the version in what identifies the build, the only text with it that is not just a number.
func redisVersion(_ string, data []byte) string {
	for len(data) > 0 {
		line, rest, _ := bytes.Cut(data, []byte{0})
		data = rest
		if line = line[max(0, len(line)-maxBuildBytes):]; len(line) < 10 || bytes.ContainsFunc(line[len(line)-10:], notDigit) {
			continue
		}
		if found := redisBuild.FindSubmatch(line); found != nil {
			return string(found[1])
		}
	}
	return ""
}

func notDigit(r rune) bool { return r < '0' || r > '9' }

// java8 matches how Java up to 8 counted: "1.8.0_392-b08".
var java8 = regexp.MustCompile(`^1\.(\d+)\.0_(\d+)`)

// javaVersion returns a version of Java as advisories have it: without what packagers add, and "1.8.392" for 1.8.0_392.
func javaVersion(version string) string {
	if old := java8.FindStringSubmatch(version); old != nil {
		return "1." + old[1] + "." + old[2]
	}
	version, _, _ = strings.Cut(version, "-")
	version, _, _ = strings.Cut(version, "+")
	return version
}

// withoutLinkedRuntimes returns the packages of an executable that another name for it, at p, is not told of again: BusyBox has
// hundreds of names.
func withoutLinkedRuntimes(packages []gate.Package, p string) []gate.Package {
	return slices.DeleteFunc(slices.Clone(packages), func(pkg gate.Package) bool {
		return pkg.Type == "generic" && pkg.Name == "busybox" && path.Base(p) != "busybox"
	})
}
