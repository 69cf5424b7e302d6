package report

import (
	"cmp"
	"path"
	"strings"

	"github.com/tidewaiter/tidewaiter/gate"
)

// purlVendors are the namespaces of distributions whose packages are known under another name than os-release's ID.
var purlVendors = map[string]string{
	"rhel": "redhat", "opensuse-leap": "opensuse", "opensuse-tumbleweed": "opensuse", "sles": "suse", "sles_sap": "suse",
}

// packageURL returns the package URL of p (purl-spec; what it says of each type is in its types). Of an operating system's package it
// needs to know which.
func packageURL(p gate.Package, os gate.OS) string {
	kind := strings.ToLower(p.Type)
	namespace, name, version := "", p.Name, p.Version
	var qualifiers []string // in the order of their names, as the specification asks
	qualify := func(key, value string) {
		if value != "" {
			qualifiers = append(qualifiers, key+"="+escape(value))
		}
	}
	switch kind {
	case "deb", "apk", "rpm":
		id := strings.ToLower(os.ID)
		namespace = cmp.Or(purlVendors[id], id)
		epoch := ""
		if kind == "rpm" {
			epoch, version = splitEpoch(version)
		} else {
			name = strings.ToLower(name)
		}
		qualify("arch", p.Arch)
		if id != "" {
			qualify("distro", strings.TrimSuffix(id+"-"+os.Version, "-"))
		}
		qualify("epoch", epoch)
	case "maven":
		namespace, name = cutLast(name, ":")
	case "golang":
		namespace, name = cutLast(strings.ToLower(name), "/")
		if version != "" && version[0] >= '0' && version[0] <= '9' && name != "stdlib" && name != "toolchain" {
			version = "v" + version
		}
	case "composer":
		namespace, name = cutLast(strings.ToLower(name), "/")
	case "pypi":
		name = strings.ToLower(strings.ReplaceAll(name, "_", "-"))
	case "npm", "conan", "swift", "generic":
		namespace, name = cutLast(name, "/")
	}
	return buildURL(kind, namespace, name, version, qualifiers)
}

// imageURL returns the package URL of an image or index.
func imageURL(c gate.Candidate) string {
	return buildURL("oci", "", strings.ToLower(path.Base(c.Repository.Path)), c.Digest.String(), []string{"repository_url=" + escape(strings.ToLower(c.Repository.String()))})
}

func buildURL(kind, namespace, name, version string, qualifiers []string) string {
	var b strings.Builder
	b.WriteString("pkg:" + escape(kind) + "/")
	for segment := range strings.SplitSeq(namespace, "/") {
		if segment != "" {
			b.WriteString(escape(segment) + "/")
		}
	}
	b.WriteString(escape(name))
	if version != "" {
		b.WriteString("@" + escape(version))
	}
	if len(qualifiers) > 0 {
		b.WriteString("?" + strings.Join(qualifiers, "&"))
	}
	return b.String()
}

// cutLast splits s at the last sep; all of it is the name when there is none.
func cutLast(s, sep string) (namespace, name string) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):]
	}
	return "", s
}

// splitEpoch takes the epoch off an rpm's version, "1:2.3-4".
func splitEpoch(version string) (epoch, rest string) {
	epoch, rest, found := strings.Cut(version, ":")
	if !found || strings.Trim(epoch, "0123456789") != "" {
		return "", version
	}
	return epoch, rest
}

// escape percent-encodes every byte but those the specification leaves alone (purl-spec, Character encoding).
func escape(s string) string {
	const hexadecimal = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-._~:", c) >= 0:
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hexadecimal[c>>4])
			b.WriteByte(hexadecimal[c&15])
		}
	}
	return b.String()
}

// pathURL returns a file of an image as a relative URI (RFC 3986, section 4.2).
func pathURL(p string) string {
	segments := strings.Split(p, "/")
	for i, s := range segments {
		segments[i] = escape(s)
	}
	joined := strings.Join(segments, "/")
	if first, _, _ := strings.Cut(joined, "/"); strings.Contains(first, ":") {
		return "./" + joined // else it would be taken for a scheme
	}
	return joined
}
