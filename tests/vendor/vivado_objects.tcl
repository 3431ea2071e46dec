# What Vivado knows, of that which a block design of attnc needs: IP with versions, properties and their values, pins, interfaces and address
# segments (described in PG201 zynq_ultra_ps_e, PG082 processing_system7, PG247 smartconnect, PG164 proc_sys_reset, UG1399 for an IP of Vitis
# HLS), properties of other objects (UG912), parts and board files. Spellings and addresses as in designs that others have published and run.

# Values by kind, as regular expressions.
set BOOL {[01]}
set WIDTH {32|64|128}
set MHZ {[0-9]{1,3}(\.[0-9]+)?}

set VERSIONS {zynq_ultra_ps_e 3.5 processing_system7 5.5 smartconnect 1.0 proc_sys_reset 5.0}

# Properties of a cell: default and values. A preset of a board may open any port: `PRESET` has the ones that it opens here.
set PROPERTIES(zynq_ultra_ps_e) [subst -nocommands {
  PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ {100 {$MHZ}} PSU__CRL_APB__PL1_REF_CTRL__FREQMHZ {100 {$MHZ}}
  PSU__CRL_APB__PL0_REF_CTRL__SRCSEL {IOPLL {IOPLL|RPLL|DPLL}}
  PSU__FPGA_PL0_ENABLE {1 {$BOOL}} PSU__FPGA_PL1_ENABLE {0 {$BOOL}} PSU__FPGA_PL2_ENABLE {0 {$BOOL}} PSU__FPGA_PL3_ENABLE {0 {$BOOL}}
  PSU__USE__FABRIC__RST {1 {$BOOL}} PSU__NUM_FABRIC_RESETS {1 {[1-4]}} PSU__USE__IRQ0 {1 {$BOOL}} PSU__USE__IRQ1 {0 {$BOOL}}
  PSU__USE__M_AXI_GP0 {1 {$BOOL}} PSU__USE__M_AXI_GP1 {1 {$BOOL}} PSU__USE__M_AXI_GP2 {0 {$BOOL}}
  PSU__MAXIGP0__DATA_WIDTH {128 {$WIDTH}} PSU__MAXIGP1__DATA_WIDTH {128 {$WIDTH}} PSU__MAXIGP2__DATA_WIDTH {32 {$WIDTH}}
  PSU__USE__S_AXI_GP0 {0 {$BOOL}} PSU__USE__S_AXI_GP1 {0 {$BOOL}} PSU__USE__S_AXI_GP2 {0 {$BOOL}} PSU__USE__S_AXI_GP3 {0 {$BOOL}}
  PSU__USE__S_AXI_GP4 {0 {$BOOL}} PSU__USE__S_AXI_GP5 {0 {$BOOL}} PSU__USE__S_AXI_GP6 {0 {$BOOL}}
  PSU__SAXIGP0__DATA_WIDTH {128 {$WIDTH}} PSU__SAXIGP1__DATA_WIDTH {128 {$WIDTH}} PSU__SAXIGP2__DATA_WIDTH {128 {$WIDTH}}
  PSU__SAXIGP3__DATA_WIDTH {128 {$WIDTH}} PSU__SAXIGP4__DATA_WIDTH {128 {$WIDTH}} PSU__SAXIGP5__DATA_WIDTH {128 {$WIDTH}}
  PSU__USE__S_AXI_ACP {0 {$BOOL}} PSU__USE__S_AXI_ACE {0 {$BOOL}}
}]
set PRESET(zynq_ultra_ps_e) {
  PSU__USE__M_AXI_GP2 1 PSU__USE__S_AXI_GP0 1 PSU__USE__S_AXI_GP2 1 PSU__USE__S_AXI_GP6 1 PSU__USE__S_AXI_ACP 1 PSU__USE__S_AXI_ACE 1
  PSU__USE__IRQ1 1 PSU__SAXIGP2__DATA_WIDTH 64
}
set PROPERTIES(processing_system7) [subst -nocommands {
  PCW_FPGA0_PERIPHERAL_FREQMHZ {50 {$MHZ}} PCW_FPGA1_PERIPHERAL_FREQMHZ {50 {$MHZ}}
  PCW_EN_CLK0_PORT {1 {$BOOL}} PCW_EN_CLK1_PORT {0 {$BOOL}} PCW_EN_RST0_PORT {1 {$BOOL}} PCW_EN_RST1_PORT {0 {$BOOL}}
  PCW_USE_FABRIC_INTERRUPT {0 {$BOOL}} PCW_IRQ_F2P_INTR {0 {$BOOL}} PCW_USE_M_AXI_GP0 {1 {$BOOL}} PCW_USE_M_AXI_GP1 {0 {$BOOL}}
  PCW_USE_S_AXI_GP0 {0 {$BOOL}} PCW_USE_S_AXI_GP1 {0 {$BOOL}} PCW_USE_S_AXI_ACP {0 {$BOOL}}
  PCW_USE_S_AXI_HP0 {0 {$BOOL}} PCW_USE_S_AXI_HP1 {0 {$BOOL}} PCW_USE_S_AXI_HP2 {0 {$BOOL}} PCW_USE_S_AXI_HP3 {0 {$BOOL}}
  PCW_S_AXI_HP0_DATA_WIDTH {64 {32|64}} PCW_S_AXI_HP1_DATA_WIDTH {64 {32|64}}
  PCW_S_AXI_HP2_DATA_WIDTH {64 {32|64}} PCW_S_AXI_HP3_DATA_WIDTH {64 {32|64}}
}]
set PRESET(processing_system7) {PCW_USE_M_AXI_GP1 1 PCW_USE_S_AXI_GP0 1 PCW_USE_S_AXI_HP0 1 PCW_S_AXI_HP0_DATA_WIDTH 32 PCW_USE_S_AXI_ACP 1}
set PROPERTIES(smartconnect) {
  NUM_SI {1 {[1-9]|1[0-6]}} NUM_MI {1 {[1-9]|1[0-6]}} NUM_CLKS {1 {[1-9]}} HAS_ARESETN {1 {[01]}}
}
set PROPERTIES(proc_sys_reset) {
  C_EXT_RST_WIDTH {4 {[1-9]|1[0-6]}} C_AUX_RST_WIDTH {4 {[1-9]|1[0-6]}} C_EXT_RESET_HIGH {0 {[01]}}
  C_NUM_BUS_RST {1 {[1-8]}} C_NUM_PERP_RST {1 {[1-9]}} C_NUM_PERP_ARESETN {1 {[1-9]}}
}
set PROPERTIES(attnc_top) {C_S_AXI_CONTROL_ADDR_WIDTH {12 {[0-9]+}} C_S_AXI_CONTROL_DATA_WIDTH {32 32}}

# Pins: direction, kind, and the property that makes them. A reset is held low (resetn) or high (reset); `any` takes either.
set PINS(zynq_ultra_ps_e) {
  pl_clk0 {O clk PSU__FPGA_PL0_ENABLE} pl_clk1 {O clk PSU__FPGA_PL1_ENABLE}
  pl_resetn0 {O resetn PSU__USE__FABRIC__RST} pl_ps_irq0 {I intr PSU__USE__IRQ0} pl_ps_irq1 {I intr PSU__USE__IRQ1}
  maxihpm0_fpd_aclk {I clk PSU__USE__M_AXI_GP0} maxihpm1_fpd_aclk {I clk PSU__USE__M_AXI_GP1} maxihpm0_lpd_aclk {I clk PSU__USE__M_AXI_GP2}
  saxihpc0_fpd_aclk {I clk PSU__USE__S_AXI_GP0} saxihpc1_fpd_aclk {I clk PSU__USE__S_AXI_GP1}
  saxihp0_fpd_aclk {I clk PSU__USE__S_AXI_GP2} saxihp1_fpd_aclk {I clk PSU__USE__S_AXI_GP3}
  saxihp2_fpd_aclk {I clk PSU__USE__S_AXI_GP4} saxihp3_fpd_aclk {I clk PSU__USE__S_AXI_GP5}
  saxi_lpd_aclk {I clk PSU__USE__S_AXI_GP6} saxiacp_fpd_aclk {I clk PSU__USE__S_AXI_ACP} sacefpd_aclk {I clk PSU__USE__S_AXI_ACE}
}
set PINS(processing_system7) {
  FCLK_CLK0 {O clk PCW_EN_CLK0_PORT} FCLK_CLK1 {O clk PCW_EN_CLK1_PORT} FCLK_RESET0_N {O resetn PCW_EN_RST0_PORT}
  IRQ_F2P {I intr PCW_IRQ_F2P_INTR} M_AXI_GP0_ACLK {I clk PCW_USE_M_AXI_GP0} M_AXI_GP1_ACLK {I clk PCW_USE_M_AXI_GP1}
  S_AXI_GP0_ACLK {I clk PCW_USE_S_AXI_GP0} S_AXI_GP1_ACLK {I clk PCW_USE_S_AXI_GP1} S_AXI_ACP_ACLK {I clk PCW_USE_S_AXI_ACP}
  S_AXI_HP0_ACLK {I clk PCW_USE_S_AXI_HP0} S_AXI_HP1_ACLK {I clk PCW_USE_S_AXI_HP1}
  S_AXI_HP2_ACLK {I clk PCW_USE_S_AXI_HP2} S_AXI_HP3_ACLK {I clk PCW_USE_S_AXI_HP3}
}
set PINS(smartconnect) {aclk {I clk {}} aresetn {I resetn {}}}
set PINS(proc_sys_reset) {
  slowest_sync_clk {I clk {}} ext_reset_in {I any {}} mb_reset {O reset {}} bus_struct_reset {O reset {}} peripheral_reset {O reset {}}
  interconnect_aresetn {O resetn {}} peripheral_aresetn {O resetn {}}
}
set PINS(attnc_top) {ap_clk {I clk {}} ap_rst_n {I resetn {}} interrupt {O intr {}}}

# Interfaces: mode, and the property that makes them. Those of a SmartConnect and of the accelerator are made by number and by bundle.
set INTERFACES(zynq_ultra_ps_e) {
  M_AXI_HPM0_FPD {Master PSU__USE__M_AXI_GP0} M_AXI_HPM1_FPD {Master PSU__USE__M_AXI_GP1} M_AXI_HPM0_LPD {Master PSU__USE__M_AXI_GP2}
  S_AXI_HPC0_FPD {Slave PSU__USE__S_AXI_GP0} S_AXI_HPC1_FPD {Slave PSU__USE__S_AXI_GP1} S_AXI_HP0_FPD {Slave PSU__USE__S_AXI_GP2}
  S_AXI_HP1_FPD {Slave PSU__USE__S_AXI_GP3} S_AXI_HP2_FPD {Slave PSU__USE__S_AXI_GP4} S_AXI_HP3_FPD {Slave PSU__USE__S_AXI_GP5}
  S_AXI_LPD {Slave PSU__USE__S_AXI_GP6} S_AXI_ACP_FPD {Slave PSU__USE__S_AXI_ACP} S_AXI_ACE_FPD {Slave PSU__USE__S_AXI_ACE}
}
set INTERFACES(processing_system7) {
  M_AXI_GP0 {Master PCW_USE_M_AXI_GP0} M_AXI_GP1 {Master PCW_USE_M_AXI_GP1} S_AXI_GP0 {Slave PCW_USE_S_AXI_GP0}
  S_AXI_GP1 {Slave PCW_USE_S_AXI_GP1} S_AXI_ACP {Slave PCW_USE_S_AXI_ACP} S_AXI_HP0 {Slave PCW_USE_S_AXI_HP0}
  S_AXI_HP1 {Slave PCW_USE_S_AXI_HP1} S_AXI_HP2 {Slave PCW_USE_S_AXI_HP2} S_AXI_HP3 {Slave PCW_USE_S_AXI_HP3}
}
set INTERFACES(proc_sys_reset) {}

# Segments behind the slave interfaces of a processing system: their parent's name in a path, and offset and range of each.
proc ultrascale_segments {tag} {
  return [list ${tag}_DDR_LOW {0x0 0x80000000} ${tag}_DDR_HIGH {0x800000000 0x800000000} ${tag}_LPS_OCM {0xFF000000 0x1000000} \
    ${tag}_QSPI {0xC0000000 0x20000000}]
}
foreach {tag number} {HPC0 0 HPC1 1 HP0 2 HP1 3 HP2 4 HP3 5} {
  set SEGMENTS(zynq_ultra_ps_e,S_AXI_${tag}_FPD) [list SAXIGP$number [ultrascale_segments $tag]]
}
foreach tag {HP0 HP1 HP2 HP3} {
  set SEGMENTS(processing_system7,S_AXI_$tag) [list S_AXI_$tag [list ${tag}_DDR_LOWOCM {0x0 0x20000000}]]
}
set SEGMENTS(attnc_top,s_axi_control) {s_axi_control {Reg {0x0 0x10000}}}
# Where a master of the processing system sees what is connected to it: first and last address.
array set WINDOW {
  M_AXI_HPM0_FPD {0xA0000000 0xAFFFFFFF} M_AXI_HPM1_FPD {0xB0000000 0xBFFFFFFF} M_AXI_HPM0_LPD {0x80000000 0x9FFFFFFF}
  M_AXI_GP0 {0x40000000 0x7FFFFFFF} M_AXI_GP1 {0x80000000 0xBFFFFFFF}
}
set AUTOMATION(zynq_ultra_ps_e) {apply_board_preset {[01]}}
set AUTOMATION(processing_system7) {
  apply_board_preset {[01]} make_external {FIXED_IO, DDR|FIXED_IO|DDR} Master {Enable|Disable} Slave {Enable|Disable}
}

# Properties of other objects: values of those that may be set, and those that may only be read.
set SETTABLE(project) {board_part .+ board_connections .* ip_repo_paths .+ target_language {Verilog|VHDL} part .+}
set SETTABLE(fileset) {top [A-Za-z_]\\w* generic .*}
set SETTABLE(design) {BITSTREAM.GENERAL.COMPRESS {TRUE|FALSE} BITSTREAM.GENERAL.CRC {ENABLE|DISABLE}}
set READABLE(board_part) {PART_NAME BOARD_NAME NAME VENDOR_NAME FILE_VERSION}
set READABLE(ipdef) {VLNV NAME VERSION VENDOR LIBRARY}
set READABLE(run) {PROGRESS STATUS DIRECTORY STRATEGY STATS.WNS STATS.WHS NAME}
set READABLE(timing_path) {SLACK STARTPOINT_PIN ENDPOINT_PIN GROUP}
set STEPS {opt_design power_opt_design place_design post_place_power_opt_design phys_opt_design route_design post_route_phys_opt_design
  write_bitstream}

set BOARD_PARTS {
  xilinx.com:kv260_som:part0:1.3 xck26-sfvc784-2LV-c xilinx.com:kv260_som:part0:1.4 xck26-sfvc784-2LV-c
  xilinx.com:zcu102:part0:3.4 xczu9eg-ffvb1156-2-e xilinx.com:zcu104:part0:1.1 xczu7ev-ffvc1156-2-e
  avnet.com:ultra96v2:part0:1.2 xczu3eg-sbva484-1-i tul.com.tw:pynq-z2:part0:1.0 xc7z020clg400-1
  realdigital.org:aup-zu3-8gb:part0:1.0 xczu3eg-sfvc784-2-e realdigital.org:aup-zu3-4gb:part0:1.0 xczu3eg-sfvc784-2-e
}
set PARTS [list xczu3eg-sbva484-1-e xc7z010clg400-1 {*}[dict values $BOARD_PARTS]]
