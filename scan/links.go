package scan

import (
	"maps"
	"path"
	"strings"
)

// database is a kind of file that is known by where it lies and that tells of a whole distribution's packages. Hiding one hides
// them all, so unlike other files these must not lie behind links we do not follow.
type database string

const (
	noDatabase    database = ""
	dpkgStatus    database = "dpkg"
	apkState      database = "apk"
	rpmDB         database = "rpm"
	journal       database = "journal"
	osReleaseFile database = "os-release"
)

// dpkgStatusDir is where distroless images keep one status file per package, and its checksums beside it.
const dpkgStatusDir = "var/lib/dpkg/status.d/"

// dpkgJournalDir is where dpkg keeps changes, in files with numbers for names, until it writes them into its state.
const dpkgJournalDir = "var/lib/dpkg/updates/"

// databases are where package managers keep their state. lib/ stands for usr/lib/ where the former is a link made by a lower layer.
var databases = map[string]database{
	"var/lib/dpkg/status":      dpkgStatus,
	"lib/apk/db/installed":     apkState,
	"usr/lib/apk/db/installed": apkState,
	"var/lib/apk/db/installed": apkState,

	"var/lib/rpm/Packages":                      rpmDB,
	"var/lib/rpm/Packages.db":                   rpmDB,
	"var/lib/rpm/rpmdb.sqlite":                  rpmDB,
	"var/lib/rpm/rpmdb.sqlite-wal":              journal,
	"var/lib/rpm/rpmdb.sqlite-journal":          journal,
	"usr/lib/sysimage/rpm/Packages":             rpmDB,
	"usr/lib/sysimage/rpm/Packages.db":          rpmDB,
	"usr/lib/sysimage/rpm/rpmdb.sqlite":         rpmDB,
	"usr/lib/sysimage/rpm/rpmdb.sqlite-wal":     journal,
	"usr/lib/sysimage/rpm/rpmdb.sqlite-journal": journal,
	"lib/sysimage/rpm/Packages":                 rpmDB,
	"lib/sysimage/rpm/Packages.db":              rpmDB,
	"lib/sysimage/rpm/rpmdb.sqlite":             rpmDB,
	"lib/sysimage/rpm/rpmdb.sqlite-wal":         journal,
	"lib/sysimage/rpm/rpmdb.sqlite-journal":     journal,
	"usr/share/rpm/Packages":                    rpmDB,
	"usr/share/rpm/Packages.db":                 rpmDB,
	"usr/share/rpm/rpmdb.sqlite":                rpmDB,
	"usr/share/rpm/rpmdb.sqlite-wal":            journal,
	"usr/share/rpm/rpmdb.sqlite-journal":        journal,

	"etc/os-release":     osReleaseFile,
	"usr/lib/os-release": osReleaseFile,
}

// databaseAt returns the kind of database p is the place of.
func databaseAt(p string) database {
	if strings.HasPrefix(p, dpkgStatusDir) && !strings.HasSuffix(p, ".md5sums") {
		return dpkgStatus
	}
	if name, found := strings.CutPrefix(p, dpkgJournalDir); found && name != "" && strings.Trim(name, "0123456789") == "" {
		return journal
	}
	return databases[p]
}

// misleads reports whether a symbolic link at name to target puts a package database somewhere we do not look for one: the
// database itself is the link, or a directory above it is. A link from one known place to another, such as Fedora's
// var/lib/rpm -> ../../usr/lib/sysimage/rpm or a merged lib -> usr/lib, does not.
func misleads(name, target string) bool {
	if kind := databaseAt(name); kind != noDatabase {
		return databaseAt(target) != kind
	}
	astray := func(p string, kind database) bool {
		below, found := strings.CutPrefix(p, name+"/")
		// An os-release that cannot be found shows by itself, as a distribution without advisories.
		return found && kind != osReleaseFile && databaseAt(path.Join(target, below)) != kind
	}
	for p, kind := range databases {
		if astray(p, kind) {
			return true
		}
	}
	return astray(dpkgStatusDir+"package", dpkgStatus) || astray(dpkgJournalDir+"0", journal)
}

// links are the symbolic links of one layer, by clean path. Runtimes follow them when a later entry of the layer is named through
// one, so "x/status" after "x -> var/lib/dpkg" is var/lib/dpkg/status. Links of lower layers are not followed: runtimes differ.
type links struct {
	targets map[string]string
	bytes   int
	// above are the directories that links were put below.
	above map[string]bool
	// steps counts the components followed so far.
	steps int
	// dir and resolved are the last question and its answer: entries of one directory follow one another.
	dir, resolved string
}

// add records the link name -> target. target is as written in the layer.
func (l *links) add(name, target string) error {
	if l.targets == nil {
		l.targets, l.above = map[string]string{}, map[string]bool{}
	}
	l.targets[name] = target
	for dir := path.Dir(name); dir != "." && !l.above[dir]; dir = path.Dir(dir) {
		l.above[dir] = true
	}
	l.bytes += len(name) + len(target)
	l.dir, l.resolved = "", ""
	if l.bytes > maxLinkBytes {
		return overLimit("more than %d bytes of symbolic links", maxLinkBytes)
	}
	return nil
}

// remove forgets the link name, which another entry has replaced.
func (l *links) remove(name string) {
	if _, ok := l.targets[name]; ok {
		delete(l.targets, name)
		l.dir, l.resolved = "", ""
	}
}

// removeBelow forgets the links below dir, which something else than a directory has replaced.
func (l *links) removeBelow(dir string) error {
	if !l.above[dir] {
		return nil
	}
	if l.steps += len(l.targets); l.steps > maxLinkSteps {
		return overLimit("directories with links that are replaced, too often")
	}
	maps.DeleteFunc(l.targets, func(name, _ string) bool { return strings.HasPrefix(name, dir+"/") })
	l.dir, l.resolved = "", ""
	return nil
}

// resolve returns where the directory dir, a clean path, lies once the layer's links are followed. ok is false when there are
// too many.
func (l *links) resolve(dir string) (resolved string, ok bool) {
	if len(l.targets) == 0 || dir == "." {
		return dir, true
	}
	if dir == l.dir {
		return l.resolved, true
	}
	resolved, ok = l.follow(dir)
	if ok {
		l.dir, l.resolved = dir, resolved
	}
	return resolved, ok
}

// through reports whether a component of dir is a link.
func (l *links) through(dir string) bool {
	for i := range len(dir) {
		if dir[i] == '/' {
			if _, found := l.targets[dir[:i]]; found {
				return true
			}
		}
	}
	_, found := l.targets[dir]
	return found
}

func (l *links) follow(dir string) (string, bool) {
	if !l.through(dir) {
		return dir, true
	}
	at, rest := ".", dir
	for hops := 0; rest != ""; {
		if l.steps++; l.steps > maxLinkSteps {
			return "", false
		}
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		next := below(at, name)
		target, found := l.targets[next]
		if !found {
			at = next
			continue
		}
		if hops++; hops > maxLinkHops || len(rest)+len(target) > 2*maxPathBytes {
			return "", false
		}
		if strings.HasPrefix(target, "/") {
			at = "."
		}
		rest = target + "/" + rest
	}
	return at, true
}

// below returns the path of name in the directory at. Nothing lies above the root, as in a runtime.
func below(at, name string) string {
	return cleanPath(at + "/" + name)
}

// cleanPath returns name as a clean path relative to the root, "." for the root itself. ".." stops at the root, as in a runtime.
func cleanPath(name string) string {
	if p := path.Clean("/" + name); p != "/" {
		return p[1:]
	}
	return "."
}
