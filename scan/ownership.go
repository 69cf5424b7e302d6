package scan

import (
	"bytes"
	"crypto/md5"  // what dpkg states
	"crypto/sha1" // what apk states
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
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
// builds an image could claim any file for a package of theirs. They could as well have changed what the file says. Where the packages
// state digests, a file with other bytes is nobody's: somebody put it in the place of the distribution's.
type ownership struct {
	seed maphash.Seed
	// owners maps a hash of each path to the place in packages of who owns it.
	owners map[uint64]int32
	// stated maps a hash of each path together with a digest stated of it, and one of the path alone, to the place of who states it.
	stated   map[uint64]int32
	packages []string
	// trusted are the names of packages that are the distribution's own; rpm's and apk's are added as such.
	trusted map[string]bool
}

func newOwnership() *ownership {
	return &ownership{seed: maphash.MakeSeed(), owners: map[uint64]int32{}, stated: map[uint64]int32{}, trusted: map[string]bool{}}
}

const (
	// maxOwnedPaths bounds the paths remembered, with their digests some 110 MiB. A full desktop has half of it; what is past it is
	// reported twice.
	maxOwnedPaths = 1 << 20
	// maxListBytes bounds a list of a package's files. Those of the largest packages have 10 MiB; a larger one is not read.
	maxListBytes = 32 << 20
)

// listFile matches where dpkg keeps the files of a package, or their checksums, which is all that distroless images have.
var listFile = regexp.MustCompile(`^var/lib/dpkg/(?:info/([a-z0-9][a-z0-9.+-]*)(?::[a-z0-9]+)?\.(?:list|md5sums)|status\.d/([A-Za-z0-9][A-Za-z0-9.+-]*)\.md5sums)$`)

// ownedPlace matches where distributions install what can be told of; what lies elsewhere is nobody's but the image's author's.
var ownedPlace = regexp.MustCompile(`^(?:bin|sbin|lib[0-9x]*|libexec|share)/`)

// unownedPlaces are below ownedPlace and hold nothing that is examined.
var unownedPlaces = []string{"share/doc/", "share/man/", "share/locale/", "share/zoneinfo/", "share/icons/"}

// unmerged returns p as it was before /usr took in /bin and /lib: lists name files by either.
func unmerged(p string) string { return strings.TrimPrefix(p, "usr/") }

// place returns p as owners are asked for it; ok is false where nothing is owned.
func (o *ownership) place(p string) (place string, ok bool) {
	p = unmerged(strings.TrimPrefix(strings.TrimPrefix(p, "."), "/"))
	return p, ownedPlace.MatchString(p) &&
		!slices.ContainsFunc(unownedPlaces, func(place string) bool { return strings.HasPrefix(p, place) })
}

// add records that owner, which packages got from begin, has the file at p.
func (o *ownership) add(owner int32, p string) {
	if p, ok := o.place(p); ok && len(o.owners) < maxOwnedPaths {
		o.owners[maphash.String(o.seed, p)] = owner
	}
}

// fileDigest is a path with a digest that is stated of its content.
type fileDigest struct{ path, digest string }

// state records that owner states digest, in its bytes, of the file at p. An empty one states nothing.
func (o *ownership) state(owner int32, p, digest string) {
	if p, ok := o.place(p); ok && digest != "" && len(o.stated) < 2*maxOwnedPaths {
		o.stated[maphash.Comparable(o.seed, fileDigest{path: p})] = owner
		o.stated[maphash.Comparable(o.seed, fileDigest{p, digest})] = owner
	}
}

// begin returns the place of a package called name, whose files are added next.
func (o *ownership) begin(name string) int32 {
	o.packages = append(o.packages, name)
	return int32(len(o.packages) - 1)
}

// owns reports whether the distribution put the file at p there that gave the account told, and whether its digest says so. Where none is
// stated, or none was made, its path has to do.
func (o *ownership) owns(p string, told account) (owned, verified bool) {
	p = unmerged(p)
	owner, found := o.owners[maphash.String(o.seed, p)]
	if !found || !o.trusted[o.packages[owner]] {
		return false, false
	}
	if _, stated := o.stated[maphash.Comparable(o.seed, fileDigest{path: p})]; !stated {
		return len(o.stated) < 2*maxOwnedPaths, false
	}
	if told.unsummed {
		return true, false
	}
	if told.sums == nil { // it is another name for a file that lies where nothing is owned
		return false, false
	}
	for _, digest := range told.sums {
		if by, stated := o.stated[maphash.Comparable(o.seed, fileDigest{p, digest})]; stated && o.trusted[o.packages[by]] {
			return true, true
		}
	}
	return false, false
}

// sums are the digests of a file that databases may state: MD5, SHA-1, SHA-256 and the begin of that, as long as SHA-1.
type sums [4]string

// maxSummedBytes bounds the files summed that are no executables: manifests, which have some kilobytes, and not archives, which are read
// in less time than they are summed.
const maxSummedBytes = 1 << 20

// sum adds to told the sums of the file it is of, which is at p and has data. They take two thirds of the time that unpacking the file took,
// so they are made only of files that told of something, where something is owned.
func (o *ownership) sum(told *account, p string, data []byte) {
	if len(told.packages)+len(told.gaps) == 0 {
		return
	}
	if told.unsummed = !isExecutable(data) && len(data) > maxSummedBytes; told.unsummed {
		return
	}
	if _, ok := o.place(p); ok {
		a, b, c := md5.Sum(data), sha1.Sum(data), sha256.Sum256(data)
		told.sums = &sums{string(a[:]), string(b[:]), string(c[:]), string(c[:sha1.Size])}
	}
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

// addList takes a list of dpkg's, at p: a path a line, or a checksum and a path.
func (o *ownership) addList(p, name string, list []byte) {
	owner := o.begin(name)
	owning := !strings.HasSuffix(p, ".md5sums") || strings.HasPrefix(p, dpkgStatusDir) // else there is another list, and it knows better
	for line := range bytes.Lines(list) {
		file := string(bytes.TrimRight(line, "\n"))
		if sum, after, found := strings.Cut(file, "  "); found && !strings.HasPrefix(file, "/") {
			file = after
			o.state(owner, file, unhex(sum))
		}
		if owning {
			o.add(owner, file)
		}
	}
}

// unhex returns the bytes of a digest in hexadecimal digits. One that has others is no file's.
func unhex(digest string) string {
	raw, err := hex.DecodeString(digest)
	if err != nil {
		return digest
	}
	return string(raw)
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

// addAPK takes apk's state: after each directory, "F:usr/lib", the files in it, "R:libz.so", each with its digest, "Z:Q1" and base64. All
// packages are the distribution's: apk does not say whose they are.
func (o *ownership) addAPK(installed []byte) {
	owner := o.begin("apk")
	o.trusted["apk"] = true
	dir, file := "", ""
	for line := range bytes.Lines(installed) {
		field, value, _ := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(":"))
		switch string(field) {
		case "F":
			dir, file = string(value), ""
		case "R":
			file = dir + "/" + string(value)
			o.add(owner, file)
		case "Z":
			o.state(owner, file, apkDigest(string(value)))
		}
	}
}

// apkDigest returns the bytes of a digest as apk writes it: "Q", what kind it is, and base64. One that is written otherwise is no file's.
func apkDigest(digest string) string {
	if len(digest) < len("Q1") || digest[0] != 'Q' {
		return digest
	}
	raw, err := base64.StdEncoding.DecodeString(digest[len("Q1"):])
	if err != nil {
		return digest
	}
	return string(raw)
}

// rpmVendors begin the vendors of rpms that advisories are about. "Fedora Project" is not among them: it also signs what it adds to
// other distributions, which their advisories say nothing of.
var rpmVendors = []string{
	"Red Hat", "CentOS", "Rocky", "AlmaLinux", "Oracle America", "Amazon", "VMware", "Microsoft Corporation", "SUSE", "openSUSE",
}

// addRPM takes the files of an rpm, with their digests as it has them: in hexadecimal digits, and empty for what is no regular file.
func (o *ownership) addRPM(vendor string, files []fileDigest) {
	if !slices.ContainsFunc(rpmVendors, func(v string) bool { return strings.HasPrefix(vendor, v) }) {
		return
	}
	owner := o.begin("rpm")
	o.trusted["rpm"] = true
	for _, f := range files {
		o.add(owner, f.path)
		o.state(owner, f.path, unhex(f.digest))
	}
}
