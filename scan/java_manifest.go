package scan

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/google/osv-scalibr/extractor/filesystem/language/java/archive"
	"github.com/google/osv-scalibr/extractor/filesystem/language/java/groupid"

	"github.com/tidewaiter/tidewaiter/gate"
)

// The attributes of a manifest that are used for what tells of group, artifact and version, the first of each that is there going
// first. None is made for that, so what comes of them is a guess. Names are in lower case: the specification takes them in any.
var (
	groupAttributes = []string{
		"bundle-symbolicname", "extension-name", "specification-vendor", "implementation-vendor", "implementation-vendor-id",
		titleAttribute, "bundle-activator", "automatic-module-name", "main-class", "package",
	}
	artifactAttributes = []string{"name", titleAttribute, "specification-title", "bundle-name", "short-name", "extension-name"}
	versionAttributes  = []string{"implementation-version", "specification-version", "plugin-version", "bundle-version"}
	// rootAttributes are those in which a name of classes may stand.
	rootAttributes = []string{"bundle-symbolicname", "automatic-module-name", "implementation-vendor-id", "extension-name", "bundle-activator", "main-class"}
)

const (
	createdBy        = "created-by"
	titleAttribute   = "implementation-title"
	licenseAttribute = "bundle-license"
	// axisName is what Apache Axis, which is older than maven, is known by: the section of its manifest that names its classes.
	axisName = "org/apache/axis"
)

// javaManifest is what the manifest of an archive states.
type javaManifest struct {
	// attributes has the first value of each, by its name in lower case, whichever section it stands in.
	attributes map[string]string
	licenses   []string
}

// parseManifest reads a manifest (JAR File Specification, "JAR Manifest"). With an error it returns what it could read.
func parseManifest(content []byte) (javaManifest, error) {
	if bytes.IndexByte(content, '\r') >= 0 { // lines may end in CR LF, LF or CR
		content = bytes.ReplaceAll(bytes.ReplaceAll(content, []byte("\r\n"), []byte("\n")), []byte("\r"), []byte("\n"))
	}
	m := javaManifest{attributes: map[string]string{}}
	var line []byte
	var malformed error
	take := func() {
		if err := m.add(line); err != nil && malformed == nil {
			malformed = err
		}
	}
	for raw := range bytes.Lines(content) {
		raw = bytes.TrimSuffix(raw, []byte("\n"))
		if rest, goesOn := bytes.CutPrefix(raw, []byte(" ")); goesOn {
			line = append(line, rest...)
			continue
		}
		take()
		line = append(line[:0], raw...)
	}
	take()
	return m, malformed
}

// add takes one line, with what it goes on with.
func (m *javaManifest) add(line []byte) error {
	if len(line) == 0 {
		return nil
	}
	key, value, ok := bytes.Cut(line, []byte(":"))
	if !ok {
		return fmt.Errorf("the line %q has no colon", printable(string(line)))
	}
	switch name := strings.ToLower(string(key)); {
	case name == licenseAttribute:
		m.licenses = bundleLicenses(string(value))
	case m.attributes[name] != "":
	case slices.Contains(groupAttributes, name), slices.Contains(artifactAttributes, name), slices.Contains(versionAttributes, name),
		name == createdBy:
		m.attributes[name] = strings.TrimSpace(string(value))
	}
	return nil
}

// group returns the group a manifest suggests for an artifact; empty if none.
func (m javaManifest) group(artifact string) string {
	if known := groupid.FromArtifactID(artifact); known != "" {
		return known
	}
	for _, name := range groupAttributes {
		value, _, _ := strings.Cut(m.attributes[name], ";") // "org.example.a;singleton:=true"
		if name == titleAttribute {                         // "org.example#server;8.14.3"
			value = leadingName(value)
		}
		if value != "" && !strings.Contains(value, " ") {
			return strings.ToLower(value)
		}
	}
	return ""
}

// leadingName returns the dotted name s begins with.
func leadingName(s string) string {
	end := strings.IndexFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_.", r))
	})
	if end < 0 {
		return s
	}
	return s[:end]
}

// artifact returns the artifact a manifest suggests; empty if none.
func (m javaManifest) artifact() string {
	usable := func(name string) bool {
		return name != "" && !strings.ContainsAny(name, " ;") && !strings.ContainsAny(name[:1], "$%")
	}
	if m.attributes[createdBy] == "Apache Maven Bundle Plugin" {
		name := m.attributes["bundle-symbolicname"]
		if name = name[strings.LastIndexByte(name, '.')+1:]; usable(name) {
			return name
		}
	}
	if m.attributes["name"] == axisName {
		return "axis"
	}
	for _, name := range artifactAttributes {
		if usable(m.attributes[name]) {
			return m.attributes[name]
		}
	}
	return ""
}

// version returns the version a manifest states, without what follows it: "1.4 1855 April 22 2006".
func (m javaManifest) version() string {
	for _, name := range versionAttributes {
		if fields := strings.Fields(m.attributes[name]); len(fields) > 0 {
			return fields[0]
		}
	}
	return ""
}

// guessed returns the package an archive is by its file's name and its manifest, where it does not say so itself.
func (j *javaArchive) guessed(file string) []gate.Package {
	var whole []gate.Package // of manifests that suggest all of it
	version := ""
	for _, m := range j.manifests {
		artifact := m.artifact()
		group := m.group(artifact)
		if version == "" {
			version = m.version()
		}
		if group != "" && artifact != "" && m.version() != "" {
			whole = append(whole, gate.Package{Type: "maven", Name: group + ":" + artifact, Version: m.version()})
		}
		for _, name := range rootAttributes {
			value, _, _ := strings.Cut(m.attributes[name], ";")
			j.roots.addName(value)
		}
	}
	artifact, group := strings.TrimSuffix(file, path.Ext(file)), ""
	if named := archive.ParseFilename(file); named != nil {
		artifact, version, group = named.ArtifactID, named.Version, strings.ToLower(named.GroupID)
		if len(whole) == 1 {
			group, _, _ = strings.Cut(whole[0].Name, ":")
		}
	} else if len(whole) > 0 {
		return j.rooted(whole)
	}
	if artifact == "" || version == "" {
		return nil
	}
	if group == "" { // as with what is older than the custom of naming groups after domains: junit:junit
		group = artifact
	}
	return j.rooted([]gate.Package{{Type: "maven", Name: group + ":" + artifact, Version: version}})
}

// rooted returns packages with the roots of the archive they were guessed of.
func (j *javaArchive) rooted(packages []gate.Package) []gate.Package {
	for i := range packages {
		packages[i].Roots = slices.Clone(j.roots.names)
	}
	return packages
}

// rootList are the dotted names, of at most three parts, that the names of classes begin with: "org.apache.commons".
type rootList struct {
	names []string
	// last is the directory of the class added last.
	last string
}

// classRoots are where classes lie that do not lie at the root of an archive.
var classRoots = []string{"BOOT-INF/classes/", "WEB-INF/classes/"}

// addClass adds what the name of a class file begins with.
func (l *rootList) addClass(file string) {
	dir := file[:strings.LastIndexByte(file, '/')+1]
	if dir == l.last || strings.HasPrefix(file, "META-INF/") { // where classes for newer versions of Java repeat others
		return
	}
	l.last = dir
	for _, root := range classRoots {
		dir = strings.TrimPrefix(dir, root)
	}
	l.addName(strings.ReplaceAll(strings.TrimSuffix(dir, "/"), "/", "."))
}

// addName adds what a dotted name begins with.
func (l *rootList) addName(name string) {
	parts := strings.SplitN(name, ".", maxRootParts+1)
	root := strings.ToLower(strings.Join(parts[:min(len(parts), maxRootParts)], "."))
	if root == "" || len(root) > maxRootBytes || len(l.names) >= maxRoots || strings.Contains(root, " ") || slices.Contains(l.names, root) {
		return
	}
	l.names = append(l.names, root)
}

// maxRootParts is how many parts of a name are kept: those that say whose it is, and one more.
const maxRootParts = 3

// akin reports whether an artifact of a group may be the archive with these roots: whether its group has the same owner as some of the
// classes, or is named after them or the artifact, as old ones are.
func akin(group, artifact string, roots []string) bool {
	if group == artifact {
		return true
	}
	owner, old := ownerOf(group), !strings.Contains(group, ".")
	return slices.ContainsFunc(roots, func(root string) bool {
		return ownerOf(root) == owner || old && slices.Contains(strings.Split(root, "."), group)
	})
}

// ownerOf returns the first two parts of a dotted name: a domain, the wrong way round.
func ownerOf(name string) string {
	parts := strings.SplitN(name, ".", 3)
	return strings.Join(parts[:min(len(parts), 2)], ".")
}
