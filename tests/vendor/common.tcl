# What the stand-ins share: a call is taken apart by the options that its guide lists, and written to `record`.

proc note {call} {
  if {$::record eq ""} return
  set file [open $::record a]
  puts $file $call
  close $file
}

# Options with a value in `valued`, without one in `plain`, then `least` to `most` others: a dictionary of options and a list of the others.
proc parse {name given valued plain least {most ""}} {
  if {$most eq ""} {
    set most $least
  }
  set options {}
  set others {}
  for {set i 0} {$i < [llength $given]} {incr i} {
    set word [lindex $given $i]
    if {$word in $valued} {
      incr i
      dict set options $word [lindex $given $i]
    } elseif {$word in $plain} {
      dict set options $word 1
    } elseif {[string index $word 0] eq "-"} {
      error "$name: unknown option '$word'"
    } else {
      lappend others $word
    }
  }
  if {[llength $others] < $least || [llength $others] > $most} {
    error "$name: needed $least argument(s), found [llength $others]: $others"
  }
  note [list $name $options $others]
  return [list $options $others]
}

proc write {path text} {
  file mkdir [file dirname $path]
  set file [open $path w]
  puts $file $text
  close $file
}
