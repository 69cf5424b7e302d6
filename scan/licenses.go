package scan

import (
	"bytes"
	"encoding/xml"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/tidewaiter/tidewaiter/gate"
)

// Some packages are told of by one file and have their licence in another, at times in another layer. Such a file is read for what it
// states; one that states nothing, or cannot be read, leaves the licence unknown, which is a fact policies can ask for and no gap.

const (
	// maxLicenseFileBytes bounds a file that states a licence. Those of Debian's largest packages come near it.
	maxLicenseFileBytes = 1 << 20
	// maxLicenses bounds the licences of one package; what is past it is left out.
	maxLicenses = 24
)

var (
	debCopyright = regexp.MustCompile(`^usr/share/doc/([a-z0-9][a-z0-9.+-]*)/copyright$`)
	debDocs      = regexp.MustCompile(`^usr/share/doc/([a-z0-9][a-z0-9.+-]*)(?:/copyright)?$`)
)

// licenseReader returns what reads the file at p for the licence of a package that another file tells of; nil for any other file.
func licenseReader(p string) func(data []byte) (gate.LicenseFile, bool) {
	if strings.HasSuffix(p, ".nuspec") {
		return readNuspec
	}
	if !strings.HasSuffix(p, "/copyright") {
		return nil
	}
	parts := debCopyright.FindStringSubmatch(p)
	if parts == nil {
		return nil
	}
	return func(data []byte) (gate.LicenseFile, bool) {
		licenses := readCopyright(data)
		return gate.LicenseFile{Type: "deb", Name: parts[1], Licenses: licenses}, len(licenses) > 0
	}
}

// licenseLink returns what a symbolic link from one package's documentation to another's says: the two have one licence.
func licenseLink(p, target string) (gate.LicenseFile, bool) {
	from := debDocs.FindStringSubmatch(p)
	if from == nil {
		return gate.LicenseFile{}, false
	}
	if !strings.HasPrefix(target, "/") {
		target = path.Dir(p) + "/" + target
	}
	to := debDocs.FindStringSubmatch(cleanPath(target))
	if to == nil {
		return gate.LicenseFile{}, false
	}
	return gate.LicenseFile{Type: "deb", Name: from[1], Like: to[1]}, true
}

// copyrightFormat begins the value of the Format field of copyright files that programs can read (DEP-5).
var copyrightFormat = regexp.MustCompile(`(?i)^https?://(?:www\.)?(?:debian\.org/doc/packaging-manuals/copyright-format|dep\.debian\.net/deps/dep5|anonscm\.debian\.org|svn\.debian\.org)`)

// readCopyright returns the licences a copyright file names: those of its stanzas about files, where it has any, else the texts in
// /usr/share/common-licenses it refers to.
func readCopyright(data []byte) []string {
	var found licenseList
	var s stanza
	structured := false
	for line := range bytes.Lines(data) {
		if line = bytes.TrimRight(line, "\r\n"); len(line) > 0 {
			s.add(line)
			continue
		}
		structured = structured || s.isHeader()
		if !structured && (s.files || len(s.license) > 0) {
			break // it has the words and not the form
		}
		s.end(&found)
	}
	if structured = structured || s.isHeader(); structured {
		s.end(&found)
		return found.names
	}
	return commonLicenses(data)
}

// stanza is a group of fields of a copyright file.
type stanza struct {
	format, license []byte
	// files says that it is about files, and shipped that they are others than those Debian adds to build the package.
	files, shipped bool
	// field is what an indented line goes on with: format, files or nothing that matters.
	field string
}

// The fields that may go on over several lines.
const (
	formatField = "format"
	filesField  = "files"
)

// add takes a line, which is not empty. Only the first line of a licence names it; the others are its text.
func (s *stanza) add(line []byte) {
	if line[0] != ' ' && line[0] != '\t' {
		name, value, ok := bytes.Cut(line, []byte(":"))
		s.field, line = "", value
		switch {
		case !ok:
			return
		case bytes.EqualFold(name, []byte("format")), bytes.EqualFold(name, []byte("format-specification")):
			s.field = formatField
		case bytes.EqualFold(name, []byte("files")):
			s.field, s.files = filesField, true
		case bytes.EqualFold(name, []byte("license")):
			s.license = bytes.TrimSpace(value)
		}
	}
	switch {
	case s.field == formatField && len(s.format) == 0:
		s.format = bytes.TrimSpace(line)
	case s.field == filesField && !s.shipped:
		for pattern := range bytes.FieldsSeq(line) {
			s.shipped = s.shipped || !bytes.HasPrefix(pattern, []byte("debian/"))
		}
	}
}

func (s *stanza) isHeader() bool { return len(s.format) > 0 && copyrightFormat.Match(s.format) }

// end adds what the stanza says to found: if it is about files, or the whole, and not only the text of a licence others name. It begins
// the next one.
func (s *stanza) end(found *licenseList) {
	if len(s.license) > 0 && (s.isHeader() || s.shipped) {
		found.addShort(string(s.license))
	}
	*s = stanza{}
}

// licenseList is a list of licences, each once, in their order.
type licenseList struct{ names []string }

func (l *licenseList) add(name string) {
	name = strings.Join(strings.Fields(name), " ")
	if name == "" || len(name) > maxLicenseBytes || len(l.names) >= maxLicenses || slices.Contains(l.names, name) {
		return
	}
	l.names = append(l.names, name)
}

// addShort adds a short name of DEP-5, in which a comma makes the next "and" or "or" bind less than the others.
func (l *licenseList) addShort(name string) {
	for part := range strings.SplitSeq(name, ", and ") {
		if choices := strings.Split(part, ", or "); len(choices) > 1 {
			part = "(" + strings.Join(choices, ") or (") + ")"
		}
		l.add(part)
	}
}

var (
	commonLicense = regexp.MustCompile(`/usr/share/common-licenses/([A-Za-z][A-Za-z]*(?:-[0-9][0-9.]*[0-9]|-[0-9])?)`)
	anyLater      = regexp.MustCompile(`any\s+later\s+version`)
)

// commonLicenses returns the licences a copyright file without form refers to.
func commonLicenses(data []byte) []string {
	var found licenseList
	matches := commonLicense.FindAllSubmatch(data, maxLicenses)
	later := len(matches) > 0 && anyLater.Match(data)
	for _, match := range matches {
		name := string(match[1])
		if later && strings.Contains(name, "GPL") {
			name += "+"
		}
		found.add(name)
	}
	return found.names
}

// nugetLicenses is where NuGet's gallery shows an expression that a package was packed with.
const nugetLicenses = "https://licenses.nuget.org/"

// readNuspec returns the licence in a package's .nuspec, if it states one by name (docs of NuGet, nuspec.md).
func readNuspec(data []byte) (gate.LicenseFile, bool) {
	var spec struct {
		Metadata struct {
			ID      string `xml:"id"`
			Version string `xml:"version"`
			License struct {
				Type string `xml:"type,attr"`
				Text string `xml:",chardata"`
			} `xml:"license"`
			LicenseURL string `xml:"licenseUrl"`
		} `xml:"metadata"`
	}
	if xml.Unmarshal(bytes.TrimPrefix(data, []byte(byteOrderMark)), &spec) != nil {
		return gate.LicenseFile{}, false
	}
	m := spec.Metadata
	license, listed := strings.CutPrefix(strings.TrimSpace(m.LicenseURL), nugetLicenses)
	switch {
	case m.License.Type == "expression":
		license = m.License.Text
	case !listed:
		return gate.LicenseFile{}, false
	}
	var found licenseList
	found.add(license)
	id, version := strings.TrimSpace(m.ID), strings.TrimSpace(m.Version)
	if len(found.names) == 0 || id == "" || version == "" || len(id)+len(version) > maxQuoteBytes {
		return gate.LicenseFile{}, false
	}
	return gate.LicenseFile{Type: "nuget", Name: strings.ToLower(id), Version: version, Licenses: found.names}, true
}

// pomLicenses returns the licences a pom.xml states itself; what it inherits stands in no jar. It reads no further than to them, which as
// a rule come before all that makes a pom long.
func pomLicenses(data []byte) []string {
	if !bytes.Contains(data, []byte("<licenses")) {
		return nil
	}
	pom := xml.NewDecoder(bytes.NewReader(data))
	for depth := 0; ; {
		token, err := pom.Token()
		if err != nil {
			return nil
		}
		switch t := token.(type) {
		case xml.EndElement:
			depth--
		case xml.StartElement:
			if depth++; depth == 2 && t.Name.Local == "licenses" {
				return statedLicenses(pom, t)
			}
		}
	}
}

// statedLicenses reads the element licenses of a pom.xml, which pom has come to.
func statedLicenses(pom *xml.Decoder, start xml.StartElement) []string {
	var stated struct {
		Licenses []struct {
			Name string `xml:"name"`
			URL  string `xml:"url"`
		} `xml:"license"`
	}
	if err := pom.DecodeElement(&stated, &start); err != nil {
		return nil
	}
	var found licenseList
	for _, one := range stated.Licenses {
		if one.Name == "" {
			one.Name = one.URL
		}
		found.add(one.Name)
	}
	return found.names
}

// bundleLicenses returns the licences in the attribute Bundle-License of a jar's manifest: "Apache-2.0;link=…, MIT" (OSGi core,
// 3.2.1.10). Names may have commas in quotes.
func bundleLicenses(value string) []string {
	var found licenseList
	for _, clause := range splitQuoted(value, ',') {
		name := strings.Trim(strings.TrimSpace(splitQuoted(clause, ';')[0]), `"`)
		found.add(strings.TrimPrefix(name, "<<EXTERNAL>>"))
	}
	return found.names
}

// splitQuoted splits s at separators that are not in quotes. It returns at least one part.
func splitQuoted(s string, separator rune) []string {
	var parts []string
	quoted, from := false, 0
	for i, r := range s {
		switch {
		case r == '"':
			quoted = !quoted
		case r == separator && !quoted:
			parts, from = append(parts, s[from:i]), i+1
		}
	}
	return append(parts, s[from:])
}
