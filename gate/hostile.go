package gate

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// What configs have held to break a runtime, or out of one. Each value is refused for what it can do to a runtime that was not mended,
// whether or not the one here was.

// windows is the operating system whose paths and users are other ones. That a config claims to be for it exempts only what looks like
// Windows' own: runtimes that go by the platform in an index run it on Linux all the same.
const windows = "windows"

// drivePath matches an absolute path on Windows.
var drivePath = regexp.MustCompile(`^(?:[A-Za-z]:)?[\\/]|^[A-Za-z]:$`)

// isAbsolute reports whether p is absolute to the system c is for.
func (c ImageConfig) isAbsolute(p string) bool {
	return strings.HasPrefix(p, "/") || c.OS == windows && drivePath.MatchString(p)
}

// hostileReasons says which values of the config are none that a builder of images writes.
func hostileReasons(p Policy, e Evidence) []Reason {
	if p.Image.UnsafeHostileConfig || e.Config == nil || e.OnlyStatements {
		return nil
	}
	c := *e.Config
	whys := slices.Concat(hostileUser(c), hostileWorkingDir(c), hostileVolumes(c), hostileCommand(c), hostileEnv(c), hostilePorts(c))
	if c.StopSignal != "" && !signalForm.MatchString(c.StopSignal) {
		whys = append(whys, fmt.Sprintf("%.60q is no signal to stop it with", c.StopSignal))
	}
	var reasons []Reason
	for _, why := range whys {
		reasons = append(reasons, Reason{Rule: RuleHostileConfig, Message: "hostile config: " + why})
	}
	return bounded(reasons)
}

// signalForm matches what runtimes take for a signal: a number or a name.
var signalForm = regexp.MustCompile(`^(?:[0-9]{1,3}|[A-Za-z][A-Za-z0-9+-]{0,15})$`)

// maxUserID is the largest user or group there is (user_namespaces(7) and every runtime count in 31 bits).
const maxUserID = 1<<31 - 1

// hostileUser: containerd let an id beyond 31 bits wrap around to root (CVE-2024-40635); a line break writes further lines into the
// passwd CRI-O makes (CVE-2022-4318).
func hostileUser(c ImageConfig) (whys []string) {
	if hasControl(c.User) {
		return []string{fmt.Sprintf("the user %.60q has control characters", c.User)}
	}
	user, group, _ := strings.Cut(c.User, ":")
	for _, id := range []string{user, group} {
		if n, isNumber := idOf(id); isNumber && (n < 0 || n > maxUserID) {
			whys = append(whys, fmt.Sprintf("the user %.60q is beyond what there is (CVE-2024-40635)", c.User))
			break
		}
	}
	return whys
}

// idOf returns the number s is to a runtime, saturated.
func idOf(s string) (n int64, isNumber bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil || errors.Is(err, strconv.ErrRange)
}

// hostileWorkingDir: a directory that is a handle of the runtime's own leads out of the container (CVE-2024-21626).
func hostileWorkingDir(c ImageConfig) []string {
	switch dir := c.WorkingDir; {
	case dir == "":
		return nil
	case hasControl(dir):
		return []string{fmt.Sprintf("the working directory %.60q has control characters (CVE-2022-4318)", dir)}
	case isHandle(dir):
		return []string{fmt.Sprintf("the working directory %.60q lies among the handles of the runtime (CVE-2024-21626)", dir)}
	case !c.isAbsolute(dir) || climbs(dir):
		return []string{fmt.Sprintf("the working directory %.60q is not absolute, or climbs", dir)}
	}
	return nil
}

// hostileVolumes: containerd copied what a volume's path led to, out of the host (CVE-2022-23648).
func hostileVolumes(c ImageConfig) (whys []string) {
	for _, v := range c.Volumes {
		switch {
		case hasControl(v):
			whys = append(whys, fmt.Sprintf("the volume %.60q has control characters", v))
		case !c.isAbsolute(v) || climbs(v) || path.Clean(v) == "/":
			whys = append(whys, fmt.Sprintf("the volume %.60q is not a path below the root (CVE-2022-23648)", v))
		case isHandle(v):
			whys = append(whys, fmt.Sprintf("the volume %.60q lies over /proc", v))
		}
	}
	return whys
}

// hostileCommand: an entry point that is the runtime's own executable lets the image write over it (CVE-2019-5736).
func hostileCommand(c ImageConfig) []string {
	words := slices.Concat(c.Entrypoint, c.Cmd)
	for _, w := range words {
		if strings.ContainsRune(w, 0) {
			return []string{"the command has a NUL in it"}
		}
	}
	if len(words) > 0 && isHandle(words[0]) {
		return []string{fmt.Sprintf("the command %.60q is the runtime's own (CVE-2019-5736)", words[0])}
	}
	return nil
}

// loaderVariables are what the dynamic loader of a hook that inherits the environment goes by (CVE-2025-23266).
var loaderVariables = []string{"LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH"}

// hostileEnv looks at the variables, which hooks of runtimes have inherited and shells executed (CVE-2014-6271).
func hostileEnv(c ImageConfig) (whys []string) {
	for _, variable := range c.Env {
		name, value, ok := strings.Cut(variable, "=")
		hiddenDrive := c.OS == windows && strings.HasPrefix(variable, "=") // "=C:=C:\app" is how Windows remembers directories
		switch {
		case !ok || name == "" && !hiddenDrive:
			whys = append(whys, fmt.Sprintf("the environment has %.60q, which is no variable", variable))
		case hasControl(name) || strings.ContainsRune(value, 0):
			whys = append(whys, fmt.Sprintf("the environment variable %.60q has control characters", name))
		case name == "HOME" && hasControl(value):
			whys = append(whys, "the environment variable HOME has control characters (CVE-2022-4318)")
		case slices.Contains(loaderVariables, name) && leadsLoader(value):
			whys = append(whys, fmt.Sprintf("%s loads %.60q into whatever inherits it (CVE-2025-23266)", name, value))
		case strings.HasPrefix(value, "() {") && !strings.HasPrefix(name, "BASH_FUNC_"):
			whys = append(whys, fmt.Sprintf("the environment variable %.60q is a function shells execute (CVE-2014-6271)", name))
		}
	}
	return whys
}

// leadsLoader reports whether a list of libraries or of directories with them has one that means another file to whoever runs outside
// the container: relative to wherever it is, or by its own handles. Absolute paths are what images preload allocators with; the empty
// entry that a variable left unset leaves behind is too common to be meant.
func leadsLoader(value string) bool {
	entries := strings.FieldsFunc(value, func(r rune) bool { return r == ':' || r == ';' || unicode.IsSpace(r) })
	return slices.ContainsFunc(entries, func(entry string) bool {
		relative := !strings.HasPrefix(entry, "/") && (strings.Contains(entry, "/") || strings.HasPrefix(entry, "."))
		return relative && !strings.HasPrefix(entry, "$") || isHandle(entry)
	})
}

// portForm matches a port or a range of ports, with or without a protocol.
var portForm = regexp.MustCompile(`^([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(?i:tcp|udp|sctp))?$`)

func hostilePorts(c ImageConfig) []string {
	for _, exposed := range c.ExposedPorts {
		parts := portForm.FindStringSubmatch(exposed)
		if parts == nil {
			return []string{fmt.Sprintf("%.60q is no port", exposed)}
		}
		for _, port := range parts[1:] {
			if n, err := strconv.Atoi(port); err == nil && n > 1<<16-1 {
				return []string{fmt.Sprintf("%.60q is no port", exposed)}
			}
		}
	}
	return nil
}

func hasControl(s string) bool { return strings.ContainsFunc(s, unicode.IsControl) }

// climbs reports whether a component of p is "..".
func climbs(p string) bool { return slices.Contains(strings.Split(p, "/"), "..") }

// isHandle reports whether p leads into /proc, or to the open files of a process by their other name.
func isHandle(p string) bool {
	p = path.Clean("/" + p)
	for _, dir := range []string{"/proc", "/dev/fd"} {
		if p == dir || strings.HasPrefix(p, dir+"/") {
			return true
		}
	}
	return false
}
