package gate

import (
	"fmt"
	"strings"
	"time"
)

// LabelPattern demands a label of an image.
type LabelPattern struct {
	Name string
	// Value is what it must be; "*" for anything but nothing.
	Value Glob
}

// configReasons says what the policy demands of the config and it does not say. What could not be read says nothing.
func configReasons(p Policy, e Evidence, now time.Time, v *Verdict) []Reason {
	if !e.ConfigExamined || !e.isImage() {
		return nil
	}
	config := ImageConfig{}
	if e.Config != nil {
		config = *e.Config
	}
	var reasons []Reason
	if p.Image.DenyRootUser {
		if why := runsAsRoot(config, e.Config != nil); why != "" {
			reasons = append(reasons, Reason{Rule: RuleRootUser, Message: why})
		}
	}
	for _, l := range p.Image.RequireLabels {
		switch value := config.Labels[l.Name]; {
		case value == "":
			reasons = append(reasons, Reason{Rule: RuleLabels, Message: fmt.Sprintf("it has no label %s", l.Name)})
		case !l.Value.Match(value):
			reasons = append(reasons, Reason{Rule: RuleLabels, Message: fmt.Sprintf("its label %s is %.80q, not %s", l.Name, value, l.Value)})
		}
	}
	if p.Image.MaxBaseAge > 0 {
		reasons = append(reasons, baseAgeReasons(p.Image.MaxBaseAge, config, now, v)...)
	}
	return reasons
}

// runsAsRoot returns why a container of the image runs as the user who may do everything; empty when it does not. That a name, or
// another number, stands for that user in the image's passwd is not known here.
func runsAsRoot(c ImageConfig, known bool) string {
	if !known {
		return "it may run as root: its config could not be read"
	}
	user, _, _ := strings.Cut(c.User, ":")
	n, isNumber := idOf(user)
	switch {
	case c.OS == windows && administers(user):
		return "it runs as ContainerAdministrator"
	case user == "":
		return "it runs as root: its config names no user"
	case user == "root", isNumber && n%(1<<32) == 0, isNumber && (n < 0 || n > 1<<32): // what no runtime can count may end as 0
		return fmt.Sprintf("it runs as root: its user is %.60q", c.User)
	}
	return ""
}

// administers reports whether an account of Windows may do everything. No account is ContainerAdministrator in most base images.
func administers(user string) bool {
	account := user[strings.LastIndexByte(user, '\\')+1:]
	switch strings.ToLower(account) {
	case "containeradministrator", "administrator", "system", "":
		return true
	}
	return false
}

// firstImages is when there was nothing yet to build images with. A date before it stands for none: builders whose images are the same
// each time write the beginning of all times.
var firstImages = time.Date(2013, time.March, 1, 0, 0, 0, 0, time.UTC)

// maxClockSkew is how far ahead of ours a builder's clock may be.
const maxClockSkew = 24 * time.Hour

// baseAgeReasons says whether what the image is built upon is older than maxAge: the oldest step of its history that has a date, or, if
// none has, the image itself. While it is not, v lapses as it will be.
func baseAgeReasons(maxAge time.Duration, c ImageConfig, now time.Time, v *Verdict) []Reason {
	oldest := time.Time{}
	for _, s := range append([]BuildStep{{Created: c.Created}}, c.History...) {
		if s.Created.After(firstImages) && (oldest.IsZero() || s.Created.Before(oldest)) {
			oldest = s.Created
		}
	}
	switch end := oldest.Add(maxAge); {
	case oldest.IsZero():
		return []Reason{{Rule: RuleBaseAge, Message: "neither it nor what it is built upon has a date"}}
	case oldest.After(now.Add(maxClockSkew)):
		return []Reason{{Rule: RuleBaseAge, Message: "it is dated in the future, " + oldest.Format(time.DateOnly)}}
	case !now.Before(end):
		return []Reason{{Rule: RuleBaseAge, Message: fmt.Sprintf("what it is built upon is from %s, more than %s ago", oldest.Format(time.DateOnly), maxAge)}}
	default:
		v.lapseAt(end)
		return nil
	}
}
