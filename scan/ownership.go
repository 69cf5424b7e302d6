package scan

import (
	"bytes"
	"hash/maphash"
	"path"
	"regexp"
	"slices"
	"strings"
)

// ownership is which files of a layer a distribution's package manager put there. What such a file tells, that this is Jinja2 2.11.2,
// the distribution's package tells better: its fixes keep the old version, so the file's word would be a false alarm.
//
// Only what the distribution itself packaged counts, as its packages state, and only where distributions install: whoever
// builds an image could claim any file for a package of theirs. They could as well have changed what the file says.
type ownership struct {
	seed maphash.Seed
	// owners maps a hash of each path to the place in packages of who owns it.
	owners   map[uint64]int32
	packages []string
	// trusted are the names of packages that are the distribution's own; rpm's and apk's are added as such.
	trusted map[string]bool
}

func newOwnership() *ownership {
	return &ownership{seed: maphash.MakeSeed(), owners: map[uint64]int32{}, trusted: map[string]bool{}}
}

const (
	// maxOwnedPaths bounds the paths remembered, some 40 MiB. A full desktop has half of it; what is past it is reported twice.
	maxOwnedPaths = 1 << 20
	// maxListBytes bounds a list of a package's files. Those of the largest packages have 10 MiB; a larger one is not read.
	maxListBytes = 32 << 20
)

// listFile matches where dpkg keeps the files of a package, and where distroless images keep their checksums instead.
var listFile = regexp.MustCompile(`^(?:var/lib/dpkg/info/([a-z0-9][a-z0-9.+-]*)(?::[a-z0-9]+)?\.list|var/lib/dpkg/status\.d/([A-Za-z0-9][A-Za-z0-9.+-]*)\.md5sums)$`)

// ownedPlace matches where distributions install what can be told of; what lies elsewhere is nobody's but the image's author's.
var ownedPlace = regexp.MustCompile(`^(?:bin|sbin|lib[0-9x]*|libexec|share)/`)

// unownedPlaces are below ownedPlace and hold nothing that is examined.
var unownedPlaces = []string{"share/doc/", "share/man/", "share/locale/", "share/zoneinfo/", "share/icons/"}

// unmerged returns p as it was before /usr took in /bin and /lib: lists name files by either.
func unmerged(p string) string { return strings.TrimPrefix(p, "usr/") }

// add records that owner, which packages got from begin, has the file at p.
func (o *ownership) add(owner int32, p string) {
	p = unmerged(strings.TrimPrefix(strings.TrimPrefix(p, "."), "/"))
	if len(o.owners) >= maxOwnedPaths || !ownedPlace.MatchString(p) {
		return
	}
	if slices.ContainsFunc(unownedPlaces, func(place string) bool { return strings.HasPrefix(p, place) }) {
		return
	}
	o.owners[maphash.String(o.seed, p)] = owner
}

// begin returns the place of a package called name, whose files are added next.
func (o *ownership) begin(name string) int32 {
	o.packages = append(o.packages, name)
	return int32(len(o.packages) - 1)
}

// owns reports whether the distribution put the file at p there.
func (o *ownership) owns(p string) bool {
	owner, found := o.owners[maphash.String(o.seed, unmerged(p))]
	return found && o.trusted[o.packages[owner]]
}

// listOf returns the package whose files the file at p lists.
func listOf(p string) (name string, ok bool) {
	if !strings.HasPrefix(p, "var/lib/dpkg/") {
		return "", false
	}
	parts := listFile.FindStringSubmatch(p)
	if parts == nil {
		return "", false
	}
	return "dpkg/" + parts[1] + parts[2], true
}

// addList takes a list of dpkg's: a path a line, after a checksum where the image has only those.
func (o *ownership) addList(name string, list []byte) {
	owner := o.begin(name)
	for line := range bytes.Lines(list) {
		p := string(bytes.TrimRight(line, "\n"))
		if _, after, found := strings.Cut(p, "  "); found && !strings.HasPrefix(p, "/") {
			p = after
		}
		o.add(owner, p)
	}
}

// debianMaintainer matches the addresses Debian and Ubuntu maintain their packages by. A package of somebody with another address is
// taken for a stranger's, whose files are reported for what they are; twice, if it is not.
var debianMaintainer = regexp.MustCompile(`[@.](?:debian\.(?:org|net)|ubuntu\.com|canonical\.com)>?\s*$`)

// addStatus takes dpkg's state, at p: which packages are installed, and whose they are.
func (o *ownership) addStatus(p string, status []byte) {
	single := ""
	if strings.HasPrefix(p, dpkgStatusDir) { // whose lists are named for the file
		single = path.Base(p)
	}
	name, debian, gone := "", false, false
	end := func() {
		if name != "" && debian && !gone {
			o.trusted["dpkg/"+name] = true
			if single != "" {
				o.trusted["dpkg/"+single] = true
			}
		}
		name, debian, gone = "", false, false
	}
	for line := range bytes.Lines(status) {
		field, value, _ := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(":"))
		switch string(field) {
		case "":
			end()
		case "Package":
			name = string(bytes.TrimSpace(value))
		case "Status":
			gone = removed(string(value))
		case "Maintainer":
			debian = debianMaintainer.Match(value)
		}
	}
	end()
}

// addAPK takes apk's state: after each directory, "F:usr/lib", the files in it, "R:libz.so". All packages are the distribution's: apk
// does not say whose they are.
func (o *ownership) addAPK(installed []byte) {
	owner := o.begin("apk")
	o.trusted["apk"] = true
	dir := ""
	for line := range bytes.Lines(installed) {
		field, value, _ := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(":"))
		switch string(field) {
		case "F":
			dir = string(value)
		case "R":
			o.add(owner, dir+"/"+string(value))
		}
	}
}

// rpmVendors begin the vendors of rpms that advisories are about. "Fedora Project" is not among them: it also signs what it adds to
// other distributions, which their advisories say nothing of.
var rpmVendors = []string{
	"Red Hat", "CentOS", "Rocky", "AlmaLinux", "Oracle America", "Amazon", "VMware", "Microsoft Corporation", "SUSE", "openSUSE",
}

// addRPM takes the files of an rpm.
func (o *ownership) addRPM(vendor string, files []string) {
	if !slices.ContainsFunc(rpmVendors, func(v string) bool { return strings.HasPrefix(vendor, v) }) {
		return
	}
	owner := o.begin("rpm")
	o.trusted["rpm"] = true
	for _, p := range files {
		o.add(owner, p)
	}
}
