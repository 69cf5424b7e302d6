package scan

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/tidewaiter/tidewaiter/gate"
)

// The readers below read files of JSON. Keys are case-sensitive to the tools the files are for, which they are not to
// encoding/json's structs: an author could add a "Version" that only we would believe. So objects are read as maps.

// object is a JSON object with its keys as they are written.
type object = map[string]json.RawMessage

// byteOrderMark may stand before JSON, and most tools skip it.
const byteOrderMark = "\xef\xbb\xbf"

// text returns the JSON string raw, or "" when it is none.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// texts returns the JSON strings in the array raw, or nil when it is none.
func texts(raw json.RawMessage) []string {
	var all []json.RawMessage
	if json.Unmarshal(raw, &all) != nil {
		return nil
	}
	var words []string
	for _, one := range all {
		if word := text(one); word != "" {
			words = append(words, word)
		}
	}
	return words
}

// fileName says which files a reader wants: those that are called name, or end so when it begins with a dot, and lie where place
// matches, if it says anything. Every file of a layer is asked for every reader, so the name goes first.
type fileName struct {
	name  string
	place *regexp.Regexp
}

func (n fileName) matches(f file) bool {
	if !strings.HasSuffix(f.path, n.name) {
		return false
	}
	start := len(f.path) - len(n.name)
	if n.name[0] != '.' && start > 0 && f.path[start-1] != '/' {
		return false
	}
	return n.place == nil || n.place.MatchString(f.path)
}

// named returns a reader of the files n says.
func named(name string, n fileName, read func(data []byte) ([]gate.Package, error)) reader {
	return reader{name: name, wants: n.matches, read: func(_ context.Context, f file) ([]gate.Package, error) { return read(f.data) }}
}

var packageJSON = fileName{name: "package.json"}

// installedNPM matches where npm puts a package, and node looks for it.
var installedNPM = regexp.MustCompile(`(?:^|/)node_modules/(?:@[^/]+/)?[^/@.][^/]*/package\.json$`)

// readNPM returns the package a package.json is of, as npm and node see it. Real packages carry broken package.json files as test
// data, some in nearly every node_modules there is: a file that is not JSON tells of no package unless it lies where one would be
// installed. A field of an unexpected type elsewhere in the file takes nothing from its name and version.
func readNPM(_ context.Context, f file) ([]gate.Package, error) {
	installed := installedNPM.MatchString(f.path)
	var fields object
	if err := json.Unmarshal(bytes.TrimPrefix(f.data, []byte(byteOrderMark)), &fields); err != nil { // node skips the mark too
		_, notObject := errors.AsType[*json.UnmarshalTypeError](err)
		tooDeep := strings.Contains(err.Error(), "exceeded max depth") // where node reads on
		if notObject || !tooDeep && !installed {
			return nil, nil
		}
		return nil, err
	}
	pkg := gate.Package{Type: "npm", Name: text(fields["name"]), Version: text(fields["version"]), Licenses: npmLicenses(fields)}
	if pkg.Name == "" || pkg.Version == "" || !installed && borrowsName(fields) {
		return nil, nil
	}
	return []gate.Package{pkg}, nil
}

// borrowsName reports whether a package.json is the manifest of an editor's extension or of a game engine's package. Where node
// would load it, it is a package all the same.
func borrowsName(fields object) bool {
	var engines object
	_ = json.Unmarshal(fields["engines"], &engines) // anything else than an object names no engine
	return engines["vscode"] != nil || fields["contributes"] != nil || text(fields["unity"]) != ""
}

// npmLicenses returns the licenses a package.json states: an expression, or in old ones an object or a list of objects.
func npmLicenses(fields object) []string {
	var licenses []string
	for _, raw := range []json.RawMessage{fields["license"], fields["licenses"]} {
		var all []json.RawMessage
		if json.Unmarshal(raw, &all) != nil {
			all = []json.RawMessage{raw}
		}
		for _, one := range all {
			var typed object
			if json.Unmarshal(one, &typed) == nil {
				one = typed["type"]
			}
			if license := text(one); license != "" {
				licenses = append(licenses, license)
			}
		}
	}
	return licenses
}

var depsJSON = fileName{name: ".deps.json"}

// readNuGet returns the libraries a .NET application says it is deployed with (docs of .NET SDK, runtime-configuration-file.md). The
// application itself and other projects of its author are not packages of anybody's.
func readNuGet(data []byte) ([]gate.Package, error) {
	var fields object
	var libraries map[string]object
	if err := json.Unmarshal(bytes.TrimPrefix(data, []byte(byteOrderMark)), &fields); err != nil {
		return nil, err
	}
	if fields["libraries"] == nil || fields["runtimeTarget"] == nil && fields["targets"] == nil { // tools of other languages use the name too
		return nil, nil
	}
	if err := json.Unmarshal(fields["libraries"], &libraries); err != nil {
		return nil, err
	}
	var packages []gate.Package
	for library, about := range libraries {
		name, version, ok := strings.Cut(library, "/")
		if !ok || name == "" || version == "" {
			return nil, fmt.Errorf("library %s has no version", quoted(library))
		}
		if text(about["type"]) == "project" {
			continue
		}
		packages = append(packages, gate.Package{Type: "nuget", Name: strings.TrimPrefix(name, "runtimepack."), Version: version})
	}
	slices.SortFunc(packages, func(a, b gate.Package) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Version, b.Version))
	})
	return packages, nil
}

var (
	composerLock      = fileName{name: "composer.lock"}
	composerInstalled = fileName{name: "installed.json", place: regexp.MustCompile(`(?:^|/)composer/[^/]+$`)}
)

// readComposer returns the packages of composer.lock, those for development left out, or of vendor/composer/installed.json, which in
// composer's first version is the bare list.
func readComposer(data []byte) ([]gate.Package, error) {
	var list []object
	var fields object
	if err := json.Unmarshal(data, &fields); err == nil {
		if fields["packages"] == nil {
			return nil, nil
		}
		data = fields["packages"]
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, err
	}
	var packages []gate.Package
	for _, about := range list {
		pkg := gate.Package{Type: "composer", Name: text(about["name"]), Version: text(about["version"]), Licenses: texts(about["license"])}
		if pkg.Name == "" || pkg.Version == "" {
			return packages, errors.New("a package has no name or no version")
		}
		packages = append(packages, pkg)
	}
	return packages, nil
}

var conanLock = fileName{name: "conan.lock"}

// conanReference matches "zlib/1.2.11@user/channel#revision%time" in its usual shorter forms.
var conanReference = regexp.MustCompile(`^([^/#@%\s]+)/([^/#@%\s]+)(?:[@#%]\S*)?$`)

// conanBuildContext is the context, in a graph of Conan 1, of what runs while something is built. With one profile for everything there
// is no such context, and what is needed to build cannot be told from the rest.
const conanBuildContext = "build"

// readConan returns the packages a conan.lock pins, in the form of Conan 1, a graph, or of Conan 2, lists. What is only needed to
// build is in neither the image nor here.
func readConan(data []byte) ([]gate.Package, error) {
	var lock, graph object
	if err := json.Unmarshal(data, &lock); err != nil {
		return nil, err
	}
	references := texts(lock["requires"])
	if json.Unmarshal(lock["graph_lock"], &graph) == nil {
		var nodes map[string]object
		if err := json.Unmarshal(graph["nodes"], &nodes); err != nil {
			return nil, err
		}
		for _, node := range nodes {
			if ref := text(node["ref"]); ref != "" && text(node["context"]) != conanBuildContext {
				references = append(references, ref)
			}
		}
	}
	slices.Sort(references)
	var packages []gate.Package
	for _, reference := range references {
		if parts := conanReference.FindStringSubmatch(reference); parts != nil {
			packages = append(packages, gate.Package{Type: "conan", Name: parts[1], Version: parts[2]})
		}
	}
	return packages, nil
}

// installedGem is where RubyGems keeps the specifications of what is installed. Those in the gems themselves are programs.
var installedGem = fileName{name: ".gemspec", place: regexp.MustCompile(`(?:^|/)specifications/(?:default/)?[^/]+$`)}

// The lines of a specification as RubyGems writes it when it installs a gem. It is a program in Ruby, but always these lines.
var (
	gemName     = regexp.MustCompile(`(?m)^\s*\w+\.name\s*=\s*["']([^"'\s]+)["']`)
	gemVersion  = regexp.MustCompile(`(?m)^\s*\w+\.version\s*=\s*(?:Gem::Version\.new\s*\(?\s*)?["']([^"'\s]+)["']`)
	gemLicenses = regexp.MustCompile(`(?m)^\s*\w+\.licenses?\s*=\s*(.*)$`)
	gemString   = regexp.MustCompile(`["']([^"']+)["']`)
	gemFile     = regexp.MustCompile(`^(.+?)-(\d[0-9A-Za-z.]*)(?:-[a-z].*)?\.gemspec$`)
)

// maxGemspecBytes bounds a specification, which patterns are tried on: those that list ten thousand files have one of it.
const maxGemspecBytes = 4 << 20

// readGem returns the gem a specification is of. Where somebody wrote it by hand, its file's name tells.
func readGem(_ context.Context, f file) ([]gate.Package, error) {
	if len(f.data) > maxGemspecBytes {
		return nil, overLimit("a specification of %d bytes", len(f.data))
	}
	pkg := gate.Package{Type: "gem"}
	if parts := gemFile.FindStringSubmatch(path.Base(f.path)); parts != nil {
		pkg.Name, pkg.Version = parts[1], parts[2]
	}
	if parts := gemName.FindSubmatch(f.data); parts != nil {
		pkg.Name = string(parts[1])
	}
	if parts := gemVersion.FindSubmatch(f.data); parts != nil {
		pkg.Version = string(parts[1])
	}
	if pkg.Name == "" || pkg.Version == "" {
		return nil, errors.New("it states no name or no version")
	}
	if line := gemLicenses.FindSubmatch(f.data); line != nil {
		for _, quote := range gemString.FindAllSubmatch(line[1], -1) {
			pkg.Licenses = append(pkg.Licenses, string(quote[1]))
		}
	}
	return []gate.Package{pkg}, nil
}

// licensedPython is r that also tells the license a METADATA or PKG-INFO states, in its newest field or in its oldest. Those in
// archives are left. An archive is read as Python reads it.
func licensedPython(r reader) reader {
	read := r.read
	r.read = func(ctx context.Context, f file) ([]gate.Package, error) {
		if strings.HasSuffix(f.path, ".egg") || strings.HasSuffix(f.path, ".whl") {
			_, proper, err := openZip(f.data)
			if err != nil {
				return nil, err
			}
			f.data, f.info = proper, (&tar.Header{Name: f.path, Size: int64(len(proper))}).FileInfo()
		}
		packages, err := read(ctx, f)
		if len(packages) == 1 && !bytes.HasPrefix(f.data, []byte(zipMagic)) {
			if license := pythonLicense(f.data); license != "" {
				packages[0].Licenses = []string{license}
			}
		}
		return packages, err
	}
	return r
}

// pythonLicense reads the headers of a metadata file (packaging.python.org, core metadata). Whoever pasted a whole license text
// into its field has named no license.
func pythonLicense(data []byte) string {
	license := ""
	for raw := range bytes.Lines(data[:min(len(data), maxHeaderBytes)]) {
		line := string(bytes.TrimRight(raw, "\r\n"))
		if line == "" {
			break
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch strings.ToLower(name) {
		case "license-expression":
			return value
		case "license":
			if value != "UNKNOWN" && len(value) <= maxLicenseBytes {
				license = value
			}
		}
	}
	return license
}

// zipMagic is what archives begin with.
const zipMagic = "PK\x03\x04"

// maxHeaderBytes bounds the headers searched for a license, which stands in the first lines of them.
const maxHeaderBytes = 1 << 20

// maxLicenseBytes is far above the longest name of a license; what is longer is its text.
const maxLicenseBytes = 128
